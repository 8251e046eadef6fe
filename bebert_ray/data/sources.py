"""The examples of a task: from the hub, a GLUE directory, the user's own data, or the demo."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.demo import demo_corpus
from bebert_ray.data.holdout import subsample
from bebert_ray.data.hub import load_hub
from bebert_ray.data.tasks import CUSTOM, task_name
from bebert_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Corpus", "Source", "Split", "load_corpus"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Which data a task is trained on.

    Attributes:
        path: GLUE directory, file, directory with ``train.*`` and ``dev.*``, or URI; None: the hub.
        dev_path: custom: File of the dev split.
        text_columns: custom: The text column, or the two of a pair.
        label_column: custom: The column of the labels.
        kind: custom: ``classification`` or ``regression``.
        max_train: How many training examples to keep; None: all.
    """

    path: str | None = None
    dev_path: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str | None = None
    kind: str = "classification"
    max_train: int | None = None


def load_corpus(
    task: str,
    source: Source,
    seed: int,
    tables: Mapping[str, pa.Table | None] | None = None,
) -> Corpus:
    """Load a task's training and dev examples as text.

    Args:
        task: A name that `bebert_ray.data.tasks.task_name` knows.
        source: Where to read, and how.
        seed: Of the choice of training examples, and of a dev split cut from the user's one file.
            The demo's sentences are the same for every seed.
        tables: custom: Tables in memory in place of ``source.path``: ``train``, and ``dev`` or
            None. Messages name them so: ``train, row 3: …``.

    Raises:
        UserError: The source is missing, out of reach, or malformed, or holds too few examples.

    Examples:
        >>> corpus = load_corpus("demo", Source(max_train=10), seed=0)
        >>> corpus.task.labels, len(corpus.train)
        (('negative', 'positive'), 10)
    """
    corpus = _read(task_name(task), source, seed, tables)
    if source.max_train is not None:
        labels = corpus.train.labels
        index = subsample(labels, source.max_train, corpus.task.is_regression, seed)
        corpus = replace(corpus, train=corpus.train.take(index))
    _warn_of_classes(corpus)
    return corpus


def _read(
    name: str, source: Source, seed: int, tables: Mapping[str, pa.Table | None] | None
) -> Corpus:
    # Files are read with pyarrow, which takes a while to import.
    if name == CUSTOM:
        from bebert_ray.data.files import load_files, load_tables

        return load_tables(source, tables, seed) if tables else load_files(source, seed)
    if tables:
        raise UserError(f"task {name}: tables of your own need task custom")
    if name == "demo":
        if source.path is not None:
            raise UserError("data.path: the demo task is built in and reads no files; leave it out")
        return demo_corpus()
    if source.path is not None:
        from bebert_ray.data.glue_tsv import load_glue_directory
        from bebert_ray.storage import Location

        if source.path.startswith("hub:"):
            raise UserError(
                f"data.path={source.path}: is for task custom; leave data.path out to read task "
                f"{name} from the hub"
            )
        return load_glue_directory(name, Location.parse(source.path))
    return load_hub(name)


def _warn_of_classes(corpus: Corpus) -> None:
    """Warn of classes that a dev split or the training examples have no rows of."""
    labels = corpus.task.labels
    if labels is None:
        return
    for name, split in {"train": corpus.train, **corpus.dev}.items():
        there = np.unique(split.labels)
        absent = [labels[i] for i in sorted(set(range(len(labels))) - set(there.tolist()))]
        if len(there) == 1:
            _log.warning(
                "%s: all %d rows are of the class %.40r; metrics on them say little",
                *(name, len(split), labels[there[0]]),
            )
        elif absent:
            _log.warning(
                "%s: no row is of the class %.40r%s",
                *(name, absent[0], f" (nor of {len(absent) - 1} others)" if absent[1:] else ""),
            )
