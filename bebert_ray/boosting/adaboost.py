"""What each member of an ensemble trains on: boosting and bagging as arithmetic on sample weights.

A `sample_weight` is a probability distribution over the n training examples: float64 [n], in
dataset order, summing to 1. Everything here is a pure function of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LossShape = Literal["linear", "square", "exponential"]
Status = Literal["ok", "perfect", "worse_than_chance"]


@dataclass(frozen=True, eq=False)
class Boost:
    """What one boosting step says about the member just trained, and about the next one.

    Attributes:
        sample_weight: the next member's weights, [n], summing to 1.
        alpha: the member's weight in the ensemble, >= 0.
        error: the error that `alpha` was made from, in [0, 1].
        status: "ok": go on. "perfect": keep the member and stop, nothing is left to boost.
            "worse_than_chance": discard the member (its alpha is 0) and stop. In the last two
            cases `sample_weight` is the one that went in.
    """

    sample_weight: Floats
    alpha: float
    error: float
    status: Status


def misclassified(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """The 0-1 loss of each example: 1 where the largest logit is not the label's.

    Args:
        logits: [n, K] with K >= 2.
        labels: class indices, [n].

    Returns:
        The loss, float64 [n] of zeros and ones.

    Raises:
        ValueError: the shapes do not fit, or a logit is not finite: argmax would pick a class
            for an example that has no prediction.

    Examples:
        >>> misclassified([[2.0, 1.0], [2.0, 1.0]], [0, 1]).tolist()
        [0.0, 1.0]
    """
    scores, classes = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or scores.shape[1] < 2 or classes.shape != scores.shape[:1]:
        raise ValueError(f"logits {scores.shape} and labels {classes.shape} are not [n, K] and [n]")
    if not np.isfinite(scores).all():
        raise ValueError("the logits hold values that are not finite")
    wrong: NDArray[np.bool_] = scores.argmax(axis=1) != classes
    return wrong.astype(np.float64)


def regression_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    shape: LossShape = "linear",
    scale: float | None = None,
) -> Floats:
    """The loss of each example in AdaBoost.R2 (Drucker, 1997, step 5).

    With r = min(|prediction - target| / scale, 1):
    linear r, square r^2, exponential 1 - exp(-r).

    Args:
        predictions: [n].
        targets: [n].
        shape: how the loss grows with the error.
        scale: the absolute error that counts as 1. By default the largest among these examples.
            Pass it where some of the examples carry no weight (the largest error among those that
            do) or where the errors of two sets of examples must be on the same scale.

    Returns:
        The loss, float64 [n] in [0, 1].

    Raises:
        ValueError: the shapes do not fit, a value is not finite, `scale` is negative, or
            `shape` is unknown.

    Examples:
        >>> regression_loss([1.0, 3.0], [1.0, 5.0], scale=4).tolist()
        [0.0, 0.5]
    """
    predicted, wanted = np.asarray(predictions, np.float64), np.asarray(targets, np.float64)
    if predicted.ndim != 1 or predicted.shape != wanted.shape:
        raise ValueError(
            f"predictions {predicted.shape} and targets {wanted.shape} are not both [n]"
        )
    distance = np.abs(predicted - wanted)
    if not np.isfinite(distance).all():
        raise ValueError("the predictions or the targets hold values that are not finite")
    if scale is None:
        scale = float(distance.max(initial=0.0))
    if not 0 <= scale < np.inf:
        raise ValueError(f"scale must be a finite number >= 0, not {scale}")
    # With a scale of 0 every weighted example is exact; any other error then counts as 1.
    scale = max(scale, float(np.finfo(np.float64).tiny))
    relative: Floats = np.minimum(distance, scale) / scale
    match shape:
        case "linear":
            return relative
        case "square":
            return relative**2
        case "exponential":
            return -np.expm1(-relative)
        case _:
            raise ValueError(f"shape must be linear, square or exponential, not {shape!r}")


def boost(
    sample_weight: ArrayLike,
    loss: ArrayLike,
    *,
    num_labels: int,
    learning_rate: float = 1.0,
    error: float | None = None,
) -> Boost:
    r"""One step of SAMME (`num_labels` >= 2) or of AdaBoost.R2 (`num_labels` == 1).

    With w the weights, L the losses, e = sum(w L) and K labels:

        SAMME        alpha = learning_rate (log((1 - e) / e) + log(K - 1))
                     w <- w exp(alpha L), normalised
        AdaBoost.R2  beta = e / (1 - e),  alpha = learning_rate log(1 / beta)
                     w <- w beta^(learning_rate (1 - L)), normalised

    The second is the first at K = 2: beta^learning_rate is exp(-alpha), and what it multiplies
    into every weight alike is lost in normalising. So there is one rule here, on losses that are
    0 or 1 for SAMME and anything between for AdaBoost.R2.

    Sources: Zhu, Zou, Rosset and Hastie, "Multi-class AdaBoost" (2009), algorithm 2; Drucker,
    "Improving regressors using boosting techniques" (1997). Edge cases and figures are those of
    scikit-learn's AdaBoostClassifier and AdaBoostRegressor: no error gives alpha 1 and stops; an
    error of 1 - 1/K (0.5 in regression) or more discards the member and stops; a weight that was
    not 0 never falls below the machine epsilon, and one that was stays 0.

    Args:
        sample_weight: the weights the member was trained with, [n].
        loss: the member's loss on each training example, [n] in [0, 1].
        num_labels: the width of the member's output; 1 is regression.
        learning_rate: shrinkage of alpha, > 0; 1 is plain AdaBoost.
        error: an error measured elsewhere, such as on held-out examples, to make alpha from and to
            judge the member by. By default the weighted error e of `loss`. The update applies to
            `loss` either way.

    Raises:
        ValueError: an argument is outside the range above.

    Examples:
        Of four examples one is wrong. It has half of the weight afterwards:

        >>> step = boost([0.25] * 4, [0, 0, 0, 1], num_labels=2)
        >>> step.sample_weight.round(3).tolist(), round(step.alpha, 3)
        ([0.167, 0.167, 0.167, 0.5], 1.099)
    """
    weight, loss = _distribution(sample_weight), np.asarray(loss, np.float64)
    if loss.shape != weight.shape or not ((loss >= 0) & (loss <= 1)).all():
        raise ValueError(f"loss must be {weight.shape} like sample_weight, with values in [0, 1]")
    if num_labels < 1 or not 0 < learning_rate < np.inf:
        raise ValueError(f"num_labels ({num_labels}) or learning_rate ({learning_rate}) too small")
    error = float(np.average(loss, weights=weight) if error is None else error)
    if not 0 <= error <= 1:
        raise ValueError(f"error must be in [0, 1], not {error}")

    classes = max(num_labels, 2)
    if error == 0:
        return Boost(weight, 1.0, error, "perfect")
    if error >= 1 - 1 / classes:
        return Boost(weight, 0.0, error, "worse_than_chance")
    alpha = learning_rate * float(np.log1p(-error) - np.log(error) + np.log(classes - 1))
    return Boost(_reweighted(weight, alpha * loss), alpha, error, "ok")


def temper(sample_weight: ArrayLike, floor: float) -> Floats:
    """Mix the uniform distribution in: (1 - floor) w + floor / n.

    A strong member leaves few errors, and boosting soon puts most of the mass on them; the floor
    keeps the next member in touch with the rest of the data.

    Args:
        sample_weight: [n].
        floor: the share of the uniform distribution, in [0, 1].

    Returns:
        The tempered weights, [n].

    Raises:
        ValueError: `sample_weight` is no distribution, or `floor` is outside [0, 1].

    Examples:
        >>> temper([0.0, 1.0], floor=0.5).tolist()
        [0.25, 0.75]
    """
    weight = _distribution(sample_weight)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must be in [0, 1], not {floor}")
    return (1 - floor) * weight + floor / len(weight)


def bootstrap(n: int, rng: np.random.Generator) -> Floats:
    """Weights of one bagging member: how often each of n examples comes up in n fair draws, over n.

    Returns:
        The weights, [n].

    Raises:
        ValueError: n < 1.

    Examples:
        >>> (4 * bootstrap(4, np.random.default_rng(0))).tolist()
        [0.0, 1.0, 2.0, 1.0]
    """
    if n < 1:
        raise ValueError(f"cannot draw from {n} examples")
    return np.bincount(rng.integers(n, size=n), minlength=n) / n


def _reweighted(weight: Floats, exponent: Floats) -> Floats:
    """`weight` * exp(`exponent`), normalised; in log space, since exp(710) is out of range."""
    positive = weight > 0
    logs = np.log(weight, where=positive, out=np.full_like(weight, -np.inf)) + exponent
    result: Floats = np.exp(logs - logs.max())
    result /= result.sum()
    result[positive] = np.maximum(result[positive], np.finfo(np.float64).eps)
    result /= result.sum()
    return result


def _distribution(sample_weight: ArrayLike) -> Floats:
    weight = np.asarray(sample_weight, np.float64)
    if weight.ndim != 1 or not (weight >= 0).all() or not np.isclose(weight.sum(), 1, atol=1e-6):
        raise ValueError("sample_weight must be [n], with no value below 0, and sum to 1")
    return weight
