"""The user's own files: CSV, TSV, JSONL or Parquet with named text and label columns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bebert_ray.data.corpus import Corpus
from bebert_ray.data.holdout import split_holdout
from bebert_ray.data.tables import READERS, SUFFIXES, Table, read_table, spelled_labels, to_split
from bebert_ray.data.tasks import ACCURACY, CORRELATIONS, CUSTOM, Task
from bebert_ray.errors import UserError

if TYPE_CHECKING:
    from bebert_ray.config import DataConfig

DEV_FRACTION = 0.1
"""Share of the examples that becomes the dev split when the user has no file for it."""


def load_files(data: DataConfig, seed: int) -> Corpus:
    """Read ``data.path``: a file, or a directory with ``train.*`` and ``dev.*``.

    The dev split is ``data.dev_path``, else a ``dev.*`` beside ``train.*``, else a seeded tenth of
    the examples. Class labels may be anything; sorted as strings, they get the indices 0, 1, ….

    Raises:
        UserError: A file or column is missing, a row is malformed, a dev label does not occur in
            train, or there are fewer than two classes.
    """
    if data.path is None or not data.text_columns or data.label_column is None:
        raise UserError("task custom needs data.path, data.text_columns and data.label_column")
    text_columns = tuple(data.text_columns)
    wanted = (*text_columns, data.label_column)
    train_path, dev_path = _find_files(Path(data.path), data.dev_path)
    table = read_table(train_path, wanted)
    task = _describe(table, text_columns, data.label_column, data.kind == "regression")
    train = to_split(table, text_columns, data.label_column, task.labels)
    if dev_path is not None:
        dev_table = read_table(dev_path, wanted)
        dev = to_split(dev_table, text_columns, data.label_column, task.labels)
        return Corpus(task, train, {"dev": dev})
    kept, held_out = split_holdout(train.labels, DEV_FRACTION, task.is_regression, seed)
    return Corpus(task, train.take(kept), {"dev": train.take(held_out)})


def _describe(
    table: Table, text_columns: tuple[str, ...], label_column: str, is_regression: bool
) -> Task:
    if is_regression:
        return Task(CUSTOM, text_columns, None, CORRELATIONS)
    labels = tuple(sorted(set(spelled_labels(table, label_column))))
    if len(labels) < 2:
        raise UserError(
            f"{table.path}: column {label_column!r} holds {len(labels)} different labels; "
            "classification needs two or more (data.kind=regression is for scores)"
        )
    return Task(CUSTOM, text_columns, labels, ACCURACY)


def _find_files(path: Path, dev_path: str | Path | None) -> tuple[Path, Path | None]:
    if path.is_dir():
        train = _find(path, "train")
        if train is None:
            raise UserError(
                f"{path}: there is no train file; data.path must be a file or a directory with "
                f"train.* and dev.*, each with one of the suffixes {SUFFIXES}"
            )
    elif path.is_file():
        train = path
    else:
        raise UserError(f"data.path={path}: there is no such file or directory")
    if dev_path is not None:
        return train, Path(dev_path)
    return train, _find(train.parent, "dev") if train.stem == "train" else None


def _find(folder: Path, stem: str) -> Path | None:
    found = [path for suffix in READERS if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{folder}: holds {names}; keep one, or name the file in data.path")
    return found[0] if found else None
