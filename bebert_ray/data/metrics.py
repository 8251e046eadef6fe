"""The official metric of each task, from raw model outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from bebert_ray.data.tasks import Task
from bebert_ray.errors import Diverged


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
    """
    if not np.isfinite(scores).all():
        raise Diverged(f"{task.name}: the model's outputs hold NaN or infinity; training diverged")
    predictions = scores[:, 0] if task.is_regression else scores.argmax(axis=1)
    return {name: _METRICS[name](labels, predictions) for name in task.metrics}


def primary(task: Task) -> str:
    """The metric that choices are made by."""
    return task.metrics[0]


def is_no_better_than_chance(task: Task, scores: np.ndarray, labels: np.ndarray) -> bool:
    """Whether answers by lot, or one answer for all, would do as well; arguments as for `evaluate`.

    They are right for one in K of each of K classes, on the mean over the classes (balanced
    accuracy): unlike plain accuracy, that tells a model that finds some of a rare class from one
    that finds none. For regression: whether what is predicted does not rise with the labels.
    """
    if task.is_regression:
        return _pearson(labels, scores[:, 0]) <= 0
    from sklearn.metrics import recall_score

    classes = np.unique(labels)
    predictions = scores.argmax(axis=1)
    recall = recall_score(labels, predictions, labels=classes, average="macro", zero_division=0.0)
    return bool(recall <= 1 / len(classes))


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(np.mean(labels == predictions))


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class on both sides
        return float(matthews_corrcoef(labels, predictions))


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, labels, predictions)


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, labels, predictions)


def _correlation(
    correlate: Callable[..., tuple[float, float]], labels: np.ndarray, predictions: np.ndarray
) -> float:
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant predictions
        statistic = float(correlate(labels.astype(float), predictions.astype(float))[0])
    return statistic if np.isfinite(statistic) else 0.0


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
