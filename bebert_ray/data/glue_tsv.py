"""A directory in the layout of the official GLUE download: ``<TASK>/train.tsv``, ``dev.tsv``."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tables import Table, read_table, to_split
from bebert_ray.data.tasks import TASKS, Task
from bebert_ray.errors import UserError
from bebert_ray.storage import Location, exists

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The columns of a task's files that hold text and label.

    Attributes:
        text_columns: Column names in the files, which differ from the hub's for some tasks.
        label_column: Column of the class or score.
        labels: How the files spell each class, by label index; ``None`` for regression.
        header: Column names where the files have no header line.
        score_range: Lowest and highest score of a regression task.
    """

    text_columns: tuple[str, ...]
    label_column: str = "label"
    labels: tuple[str, ...] | None = ("0", "1")
    header: tuple[str, ...] | None = None
    score_range: tuple[float, float] = (-math.inf, math.inf)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")

LAYOUTS: dict[str, Layout] = {
    "cola": Layout(("sentence",), header=("source", "label", "mark", "sentence")),
    "sst2": Layout(("sentence",)),
    "mrpc": Layout(("#1 String", "#2 String"), "Quality"),
    "stsb": Layout(_PAIR, "score", labels=None, score_range=(0.0, 5.0)),
    "qqp": Layout(("question1", "question2"), "is_duplicate"),
    "mnli": Layout(_PAIR, "gold_label", labels=("entailment", "neutral", "contradiction")),
    "qnli": Layout(("question", "sentence"), labels=_ENTAILMENT),
    "rte": Layout(_PAIR, labels=_ENTAILMENT),
    "wnli": Layout(_PAIR),
}


def load_glue_directory(name: str, root: Path | Location) -> Corpus:
    """Read a GLUE task from ``root/<TASK>/*.tsv``; test splits carry no labels and are not read.

    The official QQP ``train.tsv`` holds a few questions with a line break inside, each of which
    cuts a row in two. Those rows are left out and counted in a warning, as the hub's copy leaves
    them out. Everywhere else a malformed row is an error.

    Raises:
        UserError: A file is missing, a row is malformed, or a label is not one of the task's.
    """
    task = TASKS[name]
    folder = Location.of(root) / task.directory
    files = {split: folder / f"{split}.tsv" for split in ("train", *task.dev_splits)}
    for path in files.values():
        if not exists(path):
            raise UserError(
                f"{path}: there is no such file. For task {name}, data.path must be a directory in "
                f"the official GLUE layout, which holds "
                f"{', '.join(f'{task.directory}/{path.name}' for path in files.values())}; "
                "use task=custom for files of your own"
            )
    train, *dev = (_read_split(task, split, path) for split, path in files.items())
    return Corpus(task, train, dict(zip(task.dev_splits, dev, strict=True)))


def _read_split(task: Task, split: str, path: Location) -> Split:
    layout = LAYOUTS[task.name]
    wanted = (*layout.text_columns, layout.label_column)
    skip_bad = task.name == "qqp" and split == "train"
    table = read_table(path, wanted, header=layout.header, skip_bad=skip_bad)
    if skip_bad:
        _warn_of_gaps(table)
    return to_split(
        table, layout.text_columns, layout.label_column, layout.labels, layout.score_range
    )


def _warn_of_gaps(table: Table) -> None:
    gaps = table.lines[-1] - 1 - len(table.lines) if table.lines else 0
    if gaps:
        _log.warning("%s: left out %d lines with the wrong number of columns", table.name, gaps)
