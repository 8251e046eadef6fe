"""The vote: from the outputs of the members to the scores of the ensemble. NumPy alone.

`torch_vote` computes the same on tensors of logits, for models that ship.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def shares(alphas: ArrayLike) -> Floats:
    """The fraction of the vote that each member has: its alpha divided by the sum of all.

    If every alpha is 0, all members have the same fraction.

    Args:
        alphas: weights of the members, [M], M >= 1, finite and >= 0.

    Returns:
        float64 [M], which sums to 1.

    Raises:
        ValueError: there is no alpha, or one is negative or not finite.

    Example:
        >>> shares([3, 1]).tolist()
        [0.75, 0.25]
        >>> shares([0, 0]).tolist()
        [0.5, 0.5]
    """
    alpha = _checked(alphas)
    total = alpha.sum()
    return alpha / total if total > 0 else np.full(len(alpha), 1 / len(alpha))


def outputs(logits: ArrayLike) -> Floats:
    """What the members contribute to the vote: probabilities, or predictions in regression.

    Args:
        logits: [M, n, K], M >= 1. K >= 2 is classification, K = 1 is regression.

    Returns:
        float64 [M, n, K]: softmax(logits) for classification, the logits for regression.

    Raises:
        ValueError: the shape does not fit, or a logit is not finite.

    Example:
        >>> outputs([[[0.0, 0.0]]]).tolist()
        [[[0.5, 0.5]]]
    """
    values = np.asarray(logits, np.float64)
    if values.ndim != 3 or 0 in (len(values), values.shape[2]):
        raise ValueError(f"logits must be [M, n, K] with M, K >= 1, not {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the logits hold values that are not finite")
    return _softmax(values) if values.shape[2] > 1 else values


def combine(logits: ArrayLike, alphas: ArrayLike) -> Floats:
    """The ensemble's scores: the mean of the members' outputs, weighted by `alphas`.

    scores = sum_m alphas[m] outputs[m] / sum_m alphas[m]; see `outputs`. If every alpha is 0, all
    members have the same weight.

    AdaBoost (Freund and Schapire, 1997) counts one class for each member, and AdaBoost.R2 (Drucker,
    1997) takes the weighted median. The mean of probabilities, which Breiman (1996, Bagging
    Predictors) describes too, also uses how certain each member is.

    Args:
        logits: [M, n, K], M >= 1.
        alphas: weights of the members, [M], >= 0; only their ratios matter.

    Returns:
        Scores, float64 [n, K]; for classification each row sums to 1.

    Raises:
        ValueError: the shapes do not fit, an alpha is negative, or a value is not finite.

    Example:
        >>> combine([[[1.0]], [[4.0]]], alphas=[1, 2]).tolist()  # regression: K = 1
        [[3.0]]
    """
    return staged(logits, alphas)[-1]


def staged(logits: ArrayLike, alphas: ArrayLike) -> list[Floats]:
    """The scores of the ensembles of the first 1, 2, ... M members; see `combine`.

    Returns:
        M arrays, float64 [n, K].

    Raises:
        ValueError: as in `combine`.

    Example:
        >>> [scores.tolist() for scores in staged([[[1.0]], [[4.0]]], alphas=[1, 2])]
        [[[1.0]], [[3.0]]]
    """
    each = outputs(logits)
    if np.shape(alphas) != each.shape[:1]:
        raise ValueError(
            f"{len(each)} members need alphas of [{len(each)}], not {np.shape(alphas)}"
        )
    alpha = _checked(alphas)
    total, weighted = alpha.cumsum(), (alpha[:, None, None] * each).cumsum(axis=0)
    count, plain = np.arange(1, len(alpha) + 1), each.cumsum(axis=0)
    return [
        weighted[m] / total[m] if total[m] > 0 else plain[m] / count[m] for m in range(len(alpha))
    ]


def _checked(alphas: ArrayLike) -> Floats:
    alpha = np.asarray(alphas, np.float64)
    if alpha.ndim != 1 or not len(alpha):
        raise ValueError(f"alphas must be [M] with M >= 1, not {alpha.shape}")
    if not (np.isfinite(alpha) & (alpha >= 0)).all():
        raise ValueError(f"alphas must be finite and not negative: {alpha[:10].tolist()}")
    return alpha


def _softmax(logits: Floats) -> Floats:
    probabilities: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities
