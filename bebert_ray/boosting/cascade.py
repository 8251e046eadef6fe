"""A cascade: ask the first member for all examples, the next where the members so far are unsure.

Members so far are unsure of an example if the highest probability that their vote gives is below
the threshold. Source: Viola and Jones, 2001, for the idea; with confidences of ensembles, Streeter,
2018, and Wang et al., Wisdom of Committees, 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bebert_ray.boosting.vote import Floats, shares, staged

CANDIDATES = 101
"""Thresholds that are tried: quantiles of the confidences on the held-out examples."""

CURVE = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Thresholds that a curve has, besides the chosen one; at 1 nearly all members are asked."""


@dataclass(frozen=True)
class Cascade:
    """A cascade as it is kept in a model.

    Attributes:
        threshold: the highest probability below which the next member is asked.
        members: the mean number of members asked, on the held-out examples.
        loss: the most that the held-out score was allowed to fall.
    """

    threshold: float
    members: float
    loss: float


def answers(logits: ArrayLike, alphas: ArrayLike, threshold: float) -> tuple[Floats, NDArray]:
    """What a cascade says, from the logits of all members.

    Args:
        logits: [M, n, K] in the order in which members are asked, K >= 2.
        alphas: weights of the members in the vote, [M]; those of weight 0 are not asked.
        threshold: members so far are unsure below it.

    Returns:
        Scores, float64 [n, K], of the members that were asked; and how many these were, [n].

    Raises:
        ValueError: as in `vote.combine`.

    Examples:
        >>> sure, unsure = [9.0, 0.0], [0.1, 0.0]
        >>> scores, asked = answers([[sure, unsure], [sure, sure]], [1, 1], threshold=0.9)
        >>> asked.tolist(), scores[:, 0].round(2).tolist()
        ([1, 2], [1.0, 0.76])
    """
    return _answers(_stages(logits, alphas), threshold)


def _stages(logits: ArrayLike, alphas: ArrayLike) -> list[Floats]:
    """The scores of the first 1, 2, ... members that count."""
    share = shares(alphas)
    counted = share > 0
    return staged(np.asarray(logits)[counted], share[counted])


def _confidences(scores: Floats) -> NDArray[np.float32]:
    """Of scores [n, K], [n]: in the precision in which a model compares them with its threshold."""
    return scores.max(axis=1).astype(np.float32)


def _answers(stages: list[Floats], threshold: float) -> tuple[Floats, NDArray]:
    scores, asked = stages[0].copy(), np.ones(len(stages[0]), np.int64)
    unsure = np.ones(len(scores), bool)
    for stage in stages[1:]:
        unsure &= _confidences(scores) < np.float32(threshold)
        scores[unsure] = stage[unsure]
        asked[unsure] += 1
    return scores, asked


def choose(
    logits: ArrayLike, alphas: ArrayLike, score: Callable[[Floats], float], loss: float = 0.0
) -> Cascade:
    """The lowest threshold at which, and at all above, the score falls by no more than `loss`.

    Args:
        logits: of held-out examples, see `answers`.
        alphas: see `answers`.
        score: the metric of scores [n, K]; higher is better.
        loss: how much lower it may be than the score of the vote of all members.

    Raises:
        ValueError: as in `answers`.

    Examples:
        >>> first, second = [[2.0, 0.0], [0.2, 0.0]], [[2.0, 0.0], [0.0, 3.0]]
        >>> accuracy = lambda scores: float((scores.argmax(1) == [0, 1]).mean())
        >>> choose([first, second], [1, 1], accuracy).members
        1.5
    """
    stages = _stages(logits, alphas)
    least = score(stages[-1]) - loss
    confidences = np.concatenate([*map(_confidences, stages)])
    quantiles = np.quantile(confidences, np.linspace(0, 1, CANDIDATES))
    # Above the highest confidence all members are asked.
    above = np.nextafter(confidences.max(), np.float32(np.inf))
    candidates = np.unique(np.append(quantiles, above).astype(np.float32))[::-1]
    chosen = candidates[0]
    for threshold in candidates:
        if score(_answers(stages, threshold)[0]) < least:
            break
        chosen = threshold
    asked = _answers(stages, chosen)[1]
    return Cascade(float(chosen), float(asked.mean()), loss)
