"""How much the members of an ensemble differ, and whether the ensemble gains from it.

Everything follows from predictions that are there already. Nothing is trained.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def diversity(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """How far the errors of members are independent. Means over pairs of members.

    Args:
        labels: class indices, [n].
        predictions: class indices of M members, [M, n].

    Returns:
        `disagreement`: share of examples for which two members predict different classes;
        `error_correlation`: Pearson correlation of their errors (0 or 1 for each example; 0 if one
        makes none); `kappa`: Cohen's kappa of their predictions; `oracle`: share of examples that
        at least one member gets right. Empty for a single member.

    Source: Kuncheva and Whitaker, "Measures of Diversity in Classifier Ensembles" (2003).

    Examples:
        >>> diversity([0, 1, 1, 0], [[0, 1, 0, 0], [0, 1, 1, 1]])["disagreement"]
        0.5
    """
    truth, said = np.asarray(labels), np.asarray(predictions)
    if len(said) < 2:
        return {}
    wrong = (said != truth).astype(float)
    pairs = list(combinations(range(len(said)), 2))
    return {
        "disagreement": float(np.mean([(said[i] != said[j]).mean() for i, j in pairs])),
        "error_correlation": float(np.mean([_correlation(wrong[i], wrong[j]) for i, j in pairs])),
        "kappa": float(np.mean([_kappa(said[i], said[j]) for i, j in pairs])),
        "oracle": float((wrong.min(axis=0) == 0).mean()),
    }


def paired_test(labels: ArrayLike, ensemble: ArrayLike, others: ArrayLike) -> float:
    """The p-value of the exact test that an ensemble is right as often as other models on average.

    d of an example is 1 if the ensemble gets it right, less the share of the others that do. Under
    the null hypothesis each d is as likely to have the other sign; p is the share of all choices of
    signs whose sum is at least as far from 0 as the one seen. With one other model this is
    McNemar's exact test.

    Args:
        labels: class indices, [n].
        ensemble: its predictions, [n].
        others: the predictions of one model, [n], or of M, [M, n].

    Source: Fisher, The Design of Experiments (1935), section 21; McNemar (1947).

    Examples:
        >>> round(paired_test([1] * 6, [1] * 6, [0] * 6), 5)
        0.03125
        >>> round(paired_test([1, 1, 1], [1, 1, 0], [[1, 0, 1], [0, 0, 0]]), 5)
        0.75
    """
    from scipy.stats import binom

    truth, said = np.asarray(labels), np.atleast_2d(others)
    differences = len(said) * (np.asarray(ensemble) == truth) - (said == truth).sum(axis=0)
    sizes, numbers = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    # chances[t]: that the positive ones of these M d, integers of free signs, sum to t. Of those of
    # one size a binomial number is positive.
    chances = np.ones(1)
    for size, number in zip(sizes, numbers, strict=True):
        before, chances = chances, np.zeros(len(chances) + size * number)
        for positive, chance in enumerate(binom.pmf(np.arange(number + 1), number, 0.5)):
            chances[size * positive :][: len(before)] += chance * before
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(differences.sum())].sum()))


def baselines(
    scores: dict[str, float],
    labels: ArrayLike | None = None,
    ensemble: ArrayLike | None = None,
    predictions: dict[str, ArrayLike] | None = None,
) -> dict[str, dict[str, float | None]]:
    """What an ensemble is measured against, with the p-value of the difference.

    Args:
        scores: of each baseline by name, such as the checkpoint that members start from.
        labels: class indices, [n]; None for regression, which has no such test.
        ensemble: predictions of the ensemble, [n].
        predictions: of each baseline, [n], or of the models that it is the mean of, [M, n].

    Returns:
        By name: `score`, and `p`, of `paired_test` against the ensemble, or None.
    """

    def p_value(name: str) -> float | None:
        if labels is None or ensemble is None or name not in (predictions or {}):
            return None
        assert predictions is not None
        return paired_test(labels, ensemble, predictions[name])

    return {name: {"score": score, "p": p_value(name)} for name, score in scores.items()}


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if not x.std() or not y.std():
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _kappa(x: NDArray[np.generic], y: NDArray[np.generic]) -> float:
    classes = np.union1d(x, y)
    by_chance = float(sum((x == k).mean() * (y == k).mean() for k in classes))
    return 1.0 if by_chance == 1 else float(((x == y).mean() - by_chance) / (1 - by_chance))
