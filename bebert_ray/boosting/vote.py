"""From the members' outputs to the ensemble's scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def combine(logits: ArrayLike, alphas: ArrayLike) -> Floats:
    """The ensemble's scores: the mean of the members' outputs, weighted by `alphas`.

    scores = sum_m alphas[m] output[m] / sum_m alphas[m], where a member's output is softmax(logits)
    for classification (K >= 2) and the logit itself for regression (K == 1). With every alpha at 0
    each member counts the same.

    AdaBoost proper lets members vote for one class each, and AdaBoost.R2 takes the weighted median.
    Means of probabilities keep what a member knows of its own doubt, and move smoothly as members
    join.

    Args:
        logits: [M, n, K], M >= 1.
        alphas: weights of the members, [M], >= 0; their scale does not matter.

    Returns:
        Scores, float64 [n, K]; for classification each row sums to 1.

    Raises:
        ValueError: the shapes do not fit, an alpha is negative, or a value is not finite.
    """
    return staged(logits, alphas)[-1]


def staged(logits: ArrayLike, alphas: ArrayLike) -> list[Floats]:
    """The scores of the ensemble of the first 1, 2, ... M members; see `combine`.

    Returns:
        M arrays, float64 [n, K].

    Raises:
        ValueError: as in `combine`.
    """
    outputs, alpha = np.asarray(logits, np.float64), np.asarray(alphas, np.float64)
    if outputs.ndim != 3 or 0 in (len(outputs), outputs.shape[2]):
        raise ValueError(f"logits must be [M, n, K] with M, K >= 1, not {outputs.shape}")
    if alpha.shape != outputs.shape[:1]:
        raise ValueError(
            f"{len(outputs)} members need alphas of [{len(outputs)}], not {alpha.shape}"
        )
    if not (np.isfinite(alpha) & (alpha >= 0)).all():
        raise ValueError(f"alphas must be finite and not negative: {alpha.tolist()}")
    if not np.isfinite(outputs).all():
        raise ValueError("the logits hold values that are not finite")
    if outputs.shape[2] > 1:
        outputs = _softmax(outputs)
    total, weighted = alpha.cumsum(), (alpha[:, None, None] * outputs).cumsum(axis=0)
    count, plain = np.arange(1, len(alpha) + 1), outputs.cumsum(axis=0)
    return [
        weighted[m] / total[m] if total[m] > 0 else plain[m] / count[m] for m in range(len(alpha))
    ]


def _softmax(logits: Floats) -> Floats:
    probabilities: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    return probabilities
