"""The tasks: what each one's text, labels and official metrics are.

The nine tasks are those of GLUE (Wang et al., arXiv 1804.07461); labels stand in the order of the
hub's ``nyu-mll/glue``, so that a label index means the same from every source.
"""

from __future__ import annotations

from dataclasses import dataclass

from bebert_ray.errors import UserError, closest


@dataclass(frozen=True)
class Task:
    """What a task is, apart from its examples.

    Attributes:
        name: Normalised name, such as ``sst2``.
        text_columns: One column, or the two columns of a sentence pair, as the hub names them.
        labels: Class names by label index; ``None`` for regression.
        metrics: Names that `bebert_ray.data.metrics.evaluate` knows, the primary one first.
        directory: Folder in the official GLUE download; empty outside GLUE.
        dev_splits: Labelled evaluation splits, the reported one first.
    """

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    directory: str = ""
    dev_splits: tuple[str, ...] = ("dev",)

    @property
    def is_regression(self) -> bool:
        """Whether labels are scores instead of classes."""
        return self.labels is None

    @property
    def num_labels(self) -> int:
        """Width K of the logits: the number of classes, or 1 for regression."""
        return 1 if self.labels is None else len(self.labels)


ACCURACY = ("accuracy",)
ACCURACY_F1 = ("accuracy", "f1")
CORRELATIONS = ("pearson", "spearman")
_PAIR = ("sentence1", "sentence2")

_TASKS = (
    Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), "CoLA"),
    Task("sst2", ("sentence",), ("negative", "positive"), ACCURACY, "SST-2"),
    Task("mrpc", _PAIR, ("not_equivalent", "equivalent"), ACCURACY_F1, "MRPC"),
    Task("stsb", _PAIR, None, CORRELATIONS, "STS-B"),
    Task(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ACCURACY_F1,
        "QQP",
    ),
    Task(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ACCURACY,
        "MNLI",
        ("dev_matched", "dev_mismatched"),
    ),
    Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), ACCURACY, "QNLI"),
    Task("rte", _PAIR, ("entailment", "not_entailment"), ACCURACY, "RTE"),
    Task("wnli", _PAIR, ("not_entailment", "entailment"), ACCURACY, "WNLI"),
    Task("demo", ("sentence",), ("negative", "positive"), ACCURACY),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}

CUSTOM = "custom"
"""The name of the task whose text, labels and kind come from the user's own files."""


def task_name(text: str) -> str:
    """Normalise a task's name: any case, ``-``, ``_`` and spaces left out (``SST-2`` is ``sst2``).

    Raises:
        UserError: No task has that name.
    """
    name = text.strip().lower()
    for separator in "-_ ":
        name = name.replace(separator, "")
    known = [*TASKS, CUSTOM]
    if name in known:
        return name
    close = closest(name, known)
    hint = f"; did you mean {close!r}?" if close else "."
    raise UserError(f"there is no task {text[:60]!r}{hint} The tasks are: {', '.join(known)}")
