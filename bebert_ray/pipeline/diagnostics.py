"""How much the members of an ensemble differ, and whether the ensemble gains from it.

Everything follows from predictions that are there already. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
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


def diversity_of_scores(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """How far the errors of members of a regression are independent. Mean over pairs of members.

    Args:
        labels: scores, [n].
        predictions: of M members, [M, n].

    Returns:
        `error_correlation`: Pearson correlation of their errors, prediction less label; 0 if those
        of one do not vary. Empty for a single member.

    Examples:
        >>> round(diversity_of_scores([1, 2, 3], [[1, 3, 3], [1, 4, 3]])["error_correlation"], 6)
        1.0
    """
    errors = np.asarray(predictions, np.float64) - np.asarray(labels, np.float64)
    pairs = [_correlation(one, other) for one, other in combinations(errors, 2)]
    return {"error_correlation": float(np.mean(pairs))} if pairs else {}


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


def correlation_test(labels: ArrayLike, ensemble: ArrayLike, others: ArrayLike) -> float:
    """The p-value of the test that an ensemble correlates with the labels as other models do.

    The test of regressions. An example moves the Pearson correlation r of predictions x and labels
    y by (u v - r (u^2 + v^2) / 2) / n, where u and v are x and y in standard deviations from their
    means. d of an example is that of the ensemble, less the mean one of the others, times n. The
    difference of the correlations is compared with its standard error, std(d) / sqrt(n), in a
    normal distribution, on both sides. It holds for hundreds of examples, not for ten.

    Args:
        labels: scores, [n].
        ensemble: its predictions, [n]. Predictions that are all the same count as a correlation
            of 0.
        others: the predictions of one model, [n], or of M, [M, n].

    Source: Devlin, Gnanadesikan and Kettenring, "Robust Estimation and Outlier Detection with
    Correlation Coefficients" (1975), for the influence of an example; Efron, "Nonparametric
    Standard Errors and Confidence Intervals" (1981), for the standard error from it.

    Examples:
        >>> labels = np.arange(200) / 200
        >>> noise = np.random.default_rng(0).normal(size=(2, 200))
        >>> correlation_test(labels, labels + 0.1 * noise[0], labels + 0.2 * noise[1]) < 0.001
        True
        >>> correlation_test(labels, labels + noise[0], labels + noise[0])
        1.0
    """
    from scipy.stats import norm

    y = _standardised(labels)
    x = np.stack([_standardised(each) for each in (ensemble, *np.atleast_2d(others))])
    r = (x * y).mean(axis=1)
    influence = x * y - r[:, None] * (x**2 + y**2) / 2
    error = (influence[0] - influence[1:].mean(axis=0)).std() / np.sqrt(len(y))
    return float(2 * norm.sf(abs(r[0] - r[1:].mean()) / error)) if error else 1.0


def baselines(
    scores: dict[str, float],
    predictions: dict[str, ArrayLike],
    labels: ArrayLike,
    ensemble: ArrayLike,
    test: Callable[[ArrayLike, ArrayLike, ArrayLike], float] = paired_test,
) -> dict[str, dict[str, float | None]]:
    """What an ensemble is measured against, with the p-value of the difference.

    Args:
        scores: of each baseline by name, such as the checkpoint that members start from.
        predictions: of each baseline, [n], or of the models that it is the mean of, [M, n].
        labels: class indices or, for a regression, scores, [n].
        ensemble: predictions of the ensemble, [n].
        test: `paired_test`, or `correlation_test` for a regression.

    Returns:
        By name: `score`, and `p`, of the test against the ensemble.
    """
    return {
        name: {"score": score, "p": test(labels, ensemble, predictions[name])}
        for name, score in scores.items()
    }


def _standardised(values: ArrayLike) -> NDArray[np.float64]:
    """In standard deviations from the mean; 0 where all are the same."""
    x = np.asarray(values, np.float64)
    x = x - x.mean()
    return x / x.std() if np.ptp(x) else np.zeros(len(x))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if not x.std() or not y.std():
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _kappa(x: NDArray[np.generic], y: NDArray[np.generic]) -> float:
    classes = np.union1d(x, y)
    by_chance = float(sum((x == k).mean() * (y == k).mean() for k in classes))
    return 1.0 if by_chance == 1 else float(((x == y).mean() - by_chance) / (1 - by_chance))
