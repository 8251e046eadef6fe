"""The official metric of each task, from raw model outputs: of one model, or of many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.data.tasks import Task
from bebert_ray.errors import Diverged

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]
"""From the scores of A models or ensembles, [A, K, n], to their metric, [A]."""

_CONSTANT = 1e-13  # relative spread below which rounding is all that varies (scipy's threshold)


def evaluate(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score a model's outputs with every metric of the task.

    A metric that the predictions leave undefined (a correlation where all are the same) is 0.

    Args:
        task: Says which metrics, and whether ``scores`` are logits or predicted values.
        scores: [n, K] logits or probabilities, of which the largest is the prediction; for
            regression [n, 1].
        labels: [n], class indices or scores.

    Returns:
        Values by metric name, in the task's order, as fractions (0.912, not 91.2).

    Raises:
        Diverged: ``scores`` hold NaN or infinity.

    Examples:
        >>> from bebert_ray.data.tasks import TASKS
        >>> logits = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
        >>> evaluate(TASKS["sst2"], logits, np.array([1, 0, 0, 0]))
        {'accuracy': 0.75}
    """
    if not np.isfinite(scores).all():
        raise Diverged(f"{task.name}: the model's outputs hold NaN or infinity; training diverged")
    predictions = _predictions(task, np.asarray(scores).T[None])
    return {name: float(_METRICS[name](predictions, labels)[0]) for name in task.metrics}


def primary(task: Task) -> str:
    """The metric that choices are made by."""
    return task.metrics[0]


def worst(task: Task) -> float:
    """The lowest value that the primary metric can have."""
    return 0.0 if primary(task) in ("accuracy", "f1") else -1.0


def scorer(task: Task, labels: NDArray[Any]) -> Score:
    """A function that gives many models' primary metric at once; `evaluate` gives the same values.

    Args:
        task: Says which metric.
        labels: [n], class indices or scores.

    Examples:
        >>> from bebert_ray.data.tasks import TASKS
        >>> score = scorer(TASKS["sst2"], np.array([1, 0]))
        >>> score(np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])).tolist()
        [1.0, 0.5]
    """
    metric = _METRICS[primary(task)]
    return lambda scores: metric(_predictions(task, scores), labels)


def is_no_better_than_chance(task: Task, scores: np.ndarray, labels: np.ndarray) -> bool:
    """Whether random guesses, or one answer for all, would do as well.

    For K classes: whether balanced accuracy (the mean recall of the classes that occur) is at most
    1/K. Unlike plain accuracy, it tells a model that finds some of a rare class from one that
    finds none; examples of a single class tell neither. For regression: whether the Pearson
    correlation is at most 0.

    Args:
        task: As for `evaluate`.
        scores: [n, K], as for `evaluate`.
        labels: [n], as for `evaluate`.
    """
    predictions = _predictions(task, np.asarray(scores).T[None])
    if task.is_regression:
        return bool(_pearson(predictions, labels)[0] <= 0)
    classes = np.unique(labels)
    if len(classes) < 2:
        return False
    recalls = [(predictions[0, labels == k] == k).mean() for k in classes]
    return bool(np.mean(recalls) <= 1 / len(classes))


def _predictions(task: Task, scores: NDArray[Any]) -> NDArray[Any]:
    """[A, n] class indices or values, from [A, K, n]."""
    predictions: NDArray[Any] = scores[:, 0] if task.is_regression else scores.argmax(axis=1)
    return predictions


# Every metric takes predictions [A, n] and labels [n], and returns [A].


def _accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> Floats:
    accuracy: Floats = (predicted == labels).mean(axis=1)
    return accuracy


def _f1(predicted: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """F1 of class 1: 2 TP / (predicted positives + true positives); 0 where that is 0 / 0."""
    positive = predicted == 1
    found = (positive & (labels == 1)).sum(axis=1)
    return _ratio(2.0 * found, positive.sum(axis=1) + (labels == 1).sum())


def _matthews(predicted: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Matthews correlation of any number of classes (Gorodkin, 2004).

    With c of n examples right, p_k times class k predicted and t_k times true,
    (c n - sum_k p_k t_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k t_k^2)); 0 where that is 0 / 0.
    """
    n = labels.size
    right = (predicted == labels).sum(axis=1)
    counts: list[NDArray[np.int64]] = []
    left = np.full(len(predicted), n)
    while left.any():  # up to the highest class that is predicted
        counts.append(np.equal(predicted, len(counts)).sum(axis=1))
        left -= counts[-1]
    guessed = np.stack(counts, axis=1)
    true = np.bincount(labels, minlength=len(counts))
    spread = n**2 - (guessed**2).sum(axis=1)
    scale = np.sqrt(spread * float(n**2 - (true**2).sum()))
    return _ratio(right * n - guessed @ true[: len(counts)], scale)


def _pearson(predicted: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Pearson correlation; 0 where the predictions or the labels are constant."""
    mean = predicted.mean(axis=1, dtype=np.float64, keepdims=True)
    x = predicted - mean
    y = labels.astype(np.float64)
    center = y.mean()
    y -= center
    spread, label_spread = (x**2).sum(axis=1), (y**2).sum()
    varies = spread > len(y) * (_CONSTANT * mean[:, 0]) ** 2
    varies &= label_spread > len(y) * (_CONSTANT * center) ** 2
    return _ratio(x @ y, np.sqrt(spread * label_spread) * varies)


def _spearman(predicted: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Pearson correlation of the ranks; equal values share their mean rank."""
    from scipy.stats import rankdata

    return _pearson(rankdata(predicted, axis=1), rankdata(labels))


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


_METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
