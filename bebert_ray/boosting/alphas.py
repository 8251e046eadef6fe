"""Alphas from a search: weights of trained members, found on their held-out logits alone.

Boosting computes the alpha of a member from its own error alone. This search compares weightings of
all members at once; a thousand of them take the time of one training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bebert_ray.boosting.vote import Floats, combine, outputs, shares
from bebert_ray.data.metrics import evaluate, primary, scorer
from bebert_ray.data.tasks import Task

EVALUATIONS = 20_000
SPREADS = (0, 10, 30, 100, 300)  # a Dirichlet's concentration, from the whole simplex to near by
CHUNK = 2**22  # numbers in memory at a time


@dataclass(frozen=True, eq=False)
class Weighting:
    """Weights of an ensemble's members.

    Attributes:
        alphas: [M], not negative, summing to 1.
        score: the primary metric of the ensemble that they make.
        evaluations: how many were tried.
    """

    alphas: Floats
    score: float
    evaluations: int


def search_alphas(
    task: Task,
    logits: NDArray[np.float32],
    labels: NDArray[Any],
    known: list[ArrayLike],
    seed: int,
    evaluations: int = EVALUATIONS,
) -> Weighting:
    """The best weights that a random search of the simplex finds.

    First come the known weights, uniform ones and each member alone, then draws from a Dirichlet
    distribution: from all of the simplex, and ever closer around the best so far. Held-out sets
    are small, and many weights have the same score: of these, the most even ones (the least sum of
    squares) are returned.

    Args:
        task: whose primary metric is maximised.
        logits: what the members predict for the held-out examples, [M, n, K].
        labels: [n].
        known: weights that the result must not be worse than, [M] each, such as boosting's own.
        seed: of the draws; the same arguments give the same weights.
        evaluations: how many weights to try.

    Returns:
        The weights; by `combine` and `evaluate` they score no less than the known ones and uniform
        ones.
    """
    count = len(logits)
    # [M, K, n]: the scorer's order of axes.
    each = np.ascontiguousarray(outputs(logits).transpose(0, 2, 1))
    score = scorer(task, labels)
    flat = each.reshape(count, -1)
    rows = max(1, CHUNK // flat.shape[1])
    rng = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    given = [even, *(shares(alphas) for alphas in known)]

    best, best_rank, tried = even, (-np.inf, 0.0), 0

    def look(candidates: Floats) -> None:
        nonlocal best, best_rank, tried
        tried += len(candidates)
        for part in np.split(candidates, range(rows, len(candidates), rows)):
            scores = score((part @ flat).reshape(len(part), *each.shape[1:]))
            evenness = -(part**2).sum(axis=1)
            first = np.lexsort((evenness, scores))[-1]
            if (rank := (scores[first], evenness[first])) > best_rank:
                best, best_rank = part[first], rank

    look(np.array([*given, *np.eye(count)]))
    draws = (evaluations - tried) // len(SPREADS)
    for spread in SPREADS if count > 1 and draws > 0 else ():
        look(rng.dirichlet(1 + spread * best, size=draws))

    # Sums may round otherwise in `combine`, and so may ties: the final score is its score.
    def final(alphas: Floats) -> tuple[float, float]:
        value = evaluate(task, combine(logits, alphas), labels)[primary(task)]
        return value, -float((alphas**2).sum())

    best = max([best, *given], key=final)
    return Weighting(best, final(best)[0], tried)
