"""The user's own data: files, directories, saved datasets, the hub's datasets, tables in memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyarrow.fs import FileType

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.formats import SUFFIXES, listed, shown
from bebert_ray.data.holdout import split_holdout
from bebert_ray.data.hub import load_dataset
from bebert_ray.data.tables import (
    Table,
    read_table,
    similar_labels,
    spelled_labels,
    table_of,
    to_split,
)
from bebert_ray.data.tasks import ACCURACY, CORRELATIONS, CUSTOM, Task
from bebert_ray.errors import UserError
from bebert_ray.storage import Location, exists, names
from bebert_ray.storage.location import explained

if TYPE_CHECKING:
    import pyarrow as pa

    from bebert_ray.data.sources import Source

DEV_FRACTION = 0.1
"""Share of the examples that becomes the dev split when the user has no file for it."""

HUB = "hub:"
DEV_NAMES = ("dev", "validation", "valid", "val")  # the first of them that is there
_FILE = re.compile(
    r"(?P<split>train|dev|validation|valid|val)(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?"
    r"(\.(csv|tsv|jsonl|json)(\.gz)?|\.parquet)",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


def load_files(source: Source, seed: int) -> Corpus:
    """Read ``source.path``.

    It may be a file, a directory with ``train.*`` and ``dev.*`` or ``validation.*`` (also in shards
    such as ``train-00000-of-00002.parquet``), a directory that ``datasets`` saved, each local or
    under a URI, or ``hub:owner/name`` (``hub:owner/name:config``).

    The dev split is ``source.dev_path``, else the one beside train, else a seeded tenth of the
    examples. Class labels may be any text or number; sorted as text, they get the indices 0, 1, ….

    Raises:
        UserError: A file or column is missing, a row is malformed, a dev label does not occur in
            train, there are fewer than two classes, or too few rows.
    """
    if source.path is None or not source.text_columns or source.label_column is None:
        raise UserError("task custom needs data.path, data.text_columns and data.label_column")
    wanted = (*source.text_columns, source.label_column)
    if source.path == HUB:
        raise UserError(f"data.path={HUB}: name the dataset, such as {HUB}owner/name")
    if source.path.startswith(HUB):
        train, dev = _dataset_tables(source.path, load_dataset(source.path[len(HUB) :]), wanted)
    else:
        train, dev = _read_files(Location.parse(source.path), wanted)
    if source.dev_path is not None:
        dev = [read_table(Location.parse(source.dev_path), wanted)]
    return _corpus(source, train, dev, seed)


def load_tables(source: Source, tables: Mapping[str, pa.Table | None], seed: int) -> Corpus:
    """Tables in memory, ``train`` and perhaps ``dev``, with the same checks as files.

    Raises:
        UserError: As `load_files`; messages name the table.
    """
    if not source.text_columns or source.label_column is None:
        raise UserError("task custom needs data.text_columns and data.label_column")
    wanted = (*source.text_columns, source.label_column)
    train, dev = tables["train"], tables.get("dev")
    if train is None:
        raise UserError("train: there is no table")
    return _corpus(
        source,
        [table_of("train", train, wanted)],
        [] if dev is None else [table_of("dev", dev, wanted)],
        seed,
    )


def _corpus(source: Source, train: list[Table], dev: list[Table], seed: int) -> Corpus:
    text_columns, label_column = tuple(source.text_columns or ()), source.label_column or ""
    task = _describe(train, text_columns, label_column, source.kind == "regression")
    examples = _joined([to_split(t, text_columns, label_column, task.labels) for t in train])
    if dev:
        splits = [to_split(t, text_columns, label_column, task.labels) for t in dev]
        _check_count(train[0], len(examples), 2, "")
        return Corpus(task, examples, {"dev": _joined(splits)})
    # One to hold out for dev, one for the choices in training, one to train on.
    _check_count(train[0], len(examples), 3, ", or a dev file beside two")
    kept, held_out = split_holdout(examples.labels, DEV_FRACTION, task.is_regression, seed)
    return Corpus(task, examples.take(kept), {"dev": examples.take(held_out)})


def _check_count(table: Table, found: int, needed: int, other: str) -> None:
    if found < needed:
        raise UserError(
            f"{table.name}: holds {found} example{'s' * (found != 1)}, too few to train on; give "
            f"{needed} or more{other}"
        )


def _describe(
    tables: list[Table], text_columns: tuple[str, ...], label_column: str, is_regression: bool
) -> Task:
    if is_regression:
        return Task(CUSTOM, text_columns, None, CORRELATIONS)
    if not any(len(table.lines) for table in tables):
        raise UserError(f"{tables[0].name}: holds no examples")
    labels = tuple(sorted({label for t in tables for label in spelled_labels(t, label_column)}))
    if len(labels) < 2:
        raise UserError(
            f"{tables[0].name}: column {shown(label_column)} holds {len(labels)} different labels; "
            "classification needs two or more (data.kind=regression is for scores)"
        )
    for group in similar_labels(labels):
        _log.warning(
            "%s: the labels %s are %d different classes; if they are meant to be one, spell them "
            "the same",
            *(tables[0].name, listed([shown(label) for label in group]), len(group)),
        )
    return Task(CUSTOM, text_columns, labels, ACCURACY)


def _joined(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    columns = zip(*(split.texts for split in splits), strict=True)
    texts = tuple([text for part in column for text in part] for column in columns)
    return Split(texts, np.concatenate([split.labels for split in splits]))


def _read_files(place: Location, wanted: Sequence[str]) -> tuple[list[Table], list[Table]]:
    with explained("read", place):
        kind = place.filesystem.get_file_info(place.path).type
    if kind == FileType.NotFound:
        raise UserError(f"data.path={place}: there is no such file or directory")
    if kind == FileType.Directory:
        for record in ("dataset_dict.json", "state.json"):
            if exists(place / record):
                return _saved_tables(place, wanted)
        train = _find(place, ("train",))
        if not train:
            raise UserError(
                f"{place}: there is no train file; data.path must be a file or a directory with "
                f"train.* and dev.*, each with one of the suffixes {SUFFIXES}, .json, .csv.gz"
            )
        dev = _find(place, DEV_NAMES)
    else:
        train, match = [place], _FILE.fullmatch(place.name)
        is_train = match is not None and match["split"].lower() == "train" and not match["shard"]
        dev = _find(place.parent, DEV_NAMES) if is_train else []
    return [read_table(file, wanted) for file in train], [read_table(file, wanted) for file in dev]


def _find(folder: Location, splits: tuple[str, ...]) -> list[Location]:
    """The one file of the first of these splits that is there, or all its shards in order."""
    found: dict[str, list[re.Match[str]]] = {}
    for name in sorted(names(folder)):
        if match := _FILE.fullmatch(name):
            found.setdefault(match["split"].lower(), []).append(match)
    files = next((found[split] for split in splits if split in found), [])
    if len(files) > 1 or (files and files[0]["shard"]):
        numbers = [int(file["shard"] or -1) for file in files]
        whole = {int(file["shards"] or 0) for file in files} == {len(files)}
        if not whole or numbers != list(range(len(files))):
            there = " and ".join(file.string for file in files[:3])
            if all(file["shard"] for file in files):
                raise UserError(
                    f"{folder}: holds {there}, but not each shard of one set; add those missing"
                )
            raise UserError(f"{folder}: holds {there}; keep one, or name the file in data.path")
    return [folder / file.string for file in files]


def _saved_tables(place: Location, wanted: Sequence[str]) -> tuple[list[Table], list[Table]]:
    import datasets

    if not place.is_local:
        raise UserError(
            f"{place}: a saved dataset must be on a local disk; copy it there, or give {SUFFIXES}"
        )
    try:
        saved = datasets.load_from_disk(str(place))
    except Exception as error:  # whatever pyarrow or json raise, the directory is damaged
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{place}: this saved dataset cannot be read ({reason})") from error
    splits = saved if isinstance(saved, dict) else {"train": saved}
    return _dataset_tables(str(place), splits, wanted)


def _dataset_tables(
    name: str, splits: Mapping[str, Any], wanted: Sequence[str]
) -> tuple[list[Table], list[Table]]:
    """The tables of train and dev in a dataset of the library ``datasets``."""
    if "train" not in splits:
        raise UserError(f"{name}: there is no split 'train'; the splits are: {listed([*splits])}")
    dev = next((split for split in DEV_NAMES if split in splits), None)
    train = [_dataset_table(f"{name} (train)", splits["train"], wanted)]
    return train, [_dataset_table(f"{name} ({dev})", splits[dev], wanted)] if dev else []


def _dataset_table(name: str, dataset: Any, wanted: Sequence[str]) -> Table:
    table = table_of(name, dataset.with_format("arrow")[:], wanted)
    for column in wanted:
        classes = getattr(dataset.features[column], "names", None)  # of a ClassLabel
        if classes:
            table.columns[column][:] = [
                None if index is None or index < 0 else classes[index]
                for index in table.columns[column]
            ]
    return table
