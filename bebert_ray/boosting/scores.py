"""The primary metric of many ensembles at once: what searches over cached logits are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bebert_ray.data.metrics import primary
from bebert_ray.data.tasks import Task

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]
"""From the scores of A ensembles, [A, K, n], to their metric, [A]."""


def scorer(task: Task, labels: NDArray[np.generic]) -> Score:
    """Measures the primary metric of a task, as `data.metrics.evaluate` does but for rounding.

    Args:
        task: says which metric.
        labels: [n].
    """
    metric = _METRICS[primary(task)]
    if task.is_regression:
        return lambda scores: metric(scores[:, 0], labels)
    return lambda scores: metric(scores.argmax(axis=1), labels)


def _accuracy(predicted: NDArray[np.generic], labels: NDArray[np.generic]) -> Floats:
    accuracy: Floats = (predicted == labels).mean(axis=1)
    return accuracy


def _matthews(predicted: NDArray[np.generic], labels: NDArray[np.generic]) -> Floats:
    """Matthews correlation of any number of classes (Gorodkin, 2004).

    With c of n examples right, p_k times class k predicted and t_k times true,
    (c n - sum_k p_k t_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k t_k^2)); 0 where that is 0 / 0.
    """
    n, classes = labels.size, np.unique(labels)
    right = (predicted == labels).sum(axis=1)
    true = np.array([(labels == k).sum() for k in classes])
    guessed = np.stack([(predicted == k).sum(axis=1) for k in classes], axis=1)
    others = n - guessed.sum(axis=1)  # classes that are predicted, and never true, count as one
    spread = n**2 - (guessed**2).sum(axis=1) - others**2
    scale = np.sqrt(spread * float(n**2 - (true**2).sum()))
    return _ratio(right * n - guessed @ true, scale)


def _pearson(predicted: NDArray[np.generic], labels: NDArray[np.generic]) -> Floats:
    x = predicted - predicted.mean(axis=1, keepdims=True)
    y = labels.astype(np.float64)
    y -= y.mean()
    return _ratio(x @ y, np.sqrt((x**2).sum(axis=1) * (y**2).sum()))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


_METRICS: dict[str, Callable[[NDArray[np.generic], NDArray[np.generic]], Floats]] = {
    "accuracy": _accuracy,
    "matthews": _matthews,
    "pearson": _pearson,
}


def worst(task: Task) -> float:
    """The lowest value that the primary metric can have."""
    return 0.0 if primary(task) == "accuracy" else -1.0
