"""Ensemble selection: the best ensemble that can be put together of a library of trained models.

Caruana, Niculescu-Mizil, Crew, Ksikes, "Ensemble Selection from Libraries of Models" (ICML 2004).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.boosting.vote import outputs
from bebert_ray.data.metrics import scorer
from bebert_ray.data.tasks import Task

STEPS = 10  # for each model that the ensemble may have


def select(
    task: Task, logits: NDArray[np.float32], labels: NDArray[Any], size: int
) -> NDArray[np.int64]:
    """Greedy forward selection with replacement, from a sorted start.

    The start is the best of the ensembles of the 1, 2, ... `size` models that are best alone, which
    keeps a small held-out set from being fitted by chance. Then, step by step, the model is added
    with which the mean of all scores highest, also if it is there already: a model that is added
    twice counts twice. Once there are `size` models, only these are added. Of all ensembles on the
    way the best is taken, the first of them if several are.

    Args:
        task: whose primary metric is maximised.
        logits: what each model predicts for the held-out examples, [L, n, K].
        labels: [n].
        size: how many different models the ensemble may have.

    Returns:
        How often each model was taken, [L]: its weight. No model alone scores more than the
        ensemble.

    Raises:
        ValueError: there are no models, or `size` is below 1.

    Examples:
        >>> from bebert_ray.data.tasks import TASKS
        >>> good, bad = np.float32([[0, 2], [2, 0]]), np.float32([[1, 0], [0, 1]])
        >>> select(TASKS["sst2"], np.stack([bad, good]), np.array([1, 0]), size=1).tolist()
        [0, 1]
    """
    if not len(logits) or size < 1:
        raise ValueError(f"no ensemble of {size} can be selected from {len(logits)} models")
    # [L, K, n]: the scorer's order of axes.
    each = np.ascontiguousarray(outputs(logits).transpose(0, 2, 1))
    score = scorer(task, labels)
    # Best first: the best model alone is taken where several would do.
    order = np.argsort(-score(each), kind="stable")
    each = each[order]

    prefixes = each[:size].cumsum(axis=0)
    prefix_scores = score(prefixes / np.arange(1, len(prefixes) + 1)[:, None, None])
    start = int(prefix_scores.argmax())
    total = prefixes[start]
    counts = np.zeros(len(each), np.int64)
    counts[: start + 1] = 1
    best, best_score = counts.copy(), prefix_scores[start]
    for _ in range(STEPS * size):
        full = (counts > 0).sum() >= size
        choices = np.flatnonzero(counts) if full else np.arange(len(counts))
        scores = score((total + each[choices]) / (counts.sum() + 1))
        chosen = choices[scores.argmax()]
        counts[chosen] += 1
        total = total + each[chosen]
        if scores.max() > best_score:
            best, best_score = counts.copy(), scores.max()

    result = np.zeros_like(best)
    result[order] = best
    return result
