"""The scores of an ensemble from the logits of its members."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bebert_ray.boosting.vote import combine, staged
from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import Task

Metrics = dict[str, float]


def ensemble_scores(
    task: Task, logits: ArrayLike, alphas: ArrayLike, labels: NDArray[np.generic]
) -> Metrics:
    """All metrics of an ensemble on a split.

    Args:
        task: which metrics.
        logits: of each member, [M, n, K], M >= 1.
        alphas: weights of the members in the vote, [M]; if all are 0, each member counts the same.
        labels: [n].

    Returns:
        Values by metric, as fractions.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.

    >>> from bebert_ray.data.tasks import TASKS
    >>> right, wrong = np.array([[0.0, 3.0]]), np.array([[1.0, 0.0]])
    >>> ensemble_scores(TASKS["sst2"], [right, wrong], [1, 1], np.array([1]))
    {'accuracy': 1.0}
    """
    return evaluate(task, combine(logits, alphas), labels)


def staged_scores(
    task: Task, logits: ArrayLike, alphas: ArrayLike, labels: NDArray[np.generic]
) -> list[Metrics]:
    """All metrics of the ensemble of the first 1, 2, ... M members; see `ensemble_scores`."""
    stages = staged(logits, alphas)
    return [evaluate(task, scores, labels) for scores in stages]


def predictions(task: Task, scores: NDArray[np.floating]) -> list[float]:
    """What outputs of a model or of an ensemble predict for each example.

    Args:
        task: whether it is a classification.
        scores: [n, K] logits or probabilities; [n, 1] for regression.

    Returns:
        n indices of classes, or n values.
    """
    chosen: list[float] = (scores[:, 0] if task.is_regression else scores.argmax(axis=1)).tolist()
    return chosen


def ensemble_predictions(task: Task, logits: ArrayLike, alphas: ArrayLike) -> list[float]:
    """What an ensemble predicts for each example; arguments as for `ensemble_scores`."""
    return predictions(task, combine(logits, alphas))
