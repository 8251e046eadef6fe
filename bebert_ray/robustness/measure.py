"""Figures of a model's outputs: its scores, and how far its certainty can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import Task

BINS = 15
COVERAGE = 0.8  # of the examples, those that a model is most certain of


def figures(task: Task, outputs: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """The task's metrics, and of a classification also how good its probabilities are.

    Args:
        task: which metrics.
        outputs: [n, K] probabilities, or [n, 1] predicted values in regression.
        labels: [n], class indices or scores.

    Returns:
        Each metric; `nll`: the mean of -log p(label); `ece`: expected calibration error (Guo et
        al., arXiv 1706.04599), the mean gap between certainty and accuracy over 15 bins of
        certainty, by their examples; `selective`: accuracy of the 80 % most certain.
    """
    found = evaluate(task, outputs, labels)
    if task.is_regression:
        return found
    p = np.asarray(outputs, np.float64)
    certainty, right = p.max(1), p.argmax(1) == labels
    nll = -np.log(np.maximum(p[np.arange(len(p)), labels], 1e-12)).mean()
    bins = np.minimum((certainty * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=right - certainty, minlength=BINS)
    surest = np.argsort(-certainty, kind="stable")[: max(1, round(COVERAGE * len(p)))]
    return found | {
        "nll": float(nll),
        "ece": float(np.abs(gaps).sum() / len(p)),
        "selective": float(right[surest].mean()),
    }


def mean_figures(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def area(strengths: Sequence[float], scores: Sequence[float], clean: float) -> float:
    """The area under the curve of scores by strength from 0 on, divided by the greatest strength.

    So it is a mean score.

    Examples:
        >>> area([1.0, 2.0], [0.5, 0.5], clean=0.9)
        0.6
    """
    x, y = np.array([0.0, *strengths]), np.array([clean, *scores])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / x[-1])
