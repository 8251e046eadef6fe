"""One round of boosting: a member's sample weights, its alpha, and the next member's weights.

Pure arithmetic on numpy arrays. `adaboost` has the single steps; this module applies the settings
to two sets of examples, those trained on and those held out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.boosting.adaboost import (
    Boost,
    boost,
    bootstrap,
    misclassified,
    regression_loss,
    temper,
)
from bebert_ray.config import EnsembleConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Boosting weights of the training [n] and the held-out [s] examples; each sums to 1."""

    train: Floats
    selection: Floats

    @staticmethod
    def uniform(train: int, selection: int) -> Weights:
        """The weights that boosting starts from: 1 / n and 1 / s.

        Examples:
            >>> Weights.uniform(2, 4).selection.tolist()
            [0.25, 0.25, 0.25, 0.25]
        """
        return Weights(np.full(train, 1 / train), np.full(selection, 1 / selection))


@dataclass(frozen=True)
class Predictions:
    """A member's logits [., K] for both sets of examples, and their labels."""

    train: NDArray[np.float32]
    train_labels: NDArray[Any]
    selection: NDArray[np.float32]
    selection_labels: NDArray[Any]


def member_weight(config: EnsembleConfig, weights: Weights, rng: np.random.Generator) -> Floats:
    """The `sample_weight` [n] that the next member trains with.

    Boosting: the current weights. Bagging: those of a bootstrap sample, count / n. Uniform: 1 / n.

    Args:
        config: the method.
        weights: the current weights of boosting.
        rng: draws the bootstrap sample.

    Returns:
        [n], summing to 1.

    Examples:
        >>> config, rng = EnsembleConfig(method="boosting"), np.random.default_rng(0)
        >>> member_weight(config, Weights.uniform(2, 1), rng).tolist()
        [0.5, 0.5]
    """
    if config.method == "bagging":
        return bootstrap(len(weights.train), rng)
    return weights.train  # of a uniform ensemble, these never change


def boost_round(
    config: EnsembleConfig, num_labels: int, weights: Weights, predictions: Predictions
) -> tuple[Weights, Boost]:
    """The weights after a member, and its alpha.

    `config.errors` names the examples that the member's error e, and so its alpha, is measured on:

    * `train`: those it was trained on, as in AdaBoost. A strong member fits them, e is too small,
      and the next member sees little but label noise;
    * `holdout`: the selection split, whose examples have boosting weights of their own. With
      `selection: dev` that split is dev, and the alphas depend on the reported split, as in the
      published protocol;
    * `out_of_fold`: those it was trained on, with `predictions.train` from models that did not see
      the example.

    Of s held-out examples, no error is half an error in s + 1: so few say nothing of a perfect
    member, unless it makes no training error either.

    `config.floor` tempers the weights that are returned, so that the few errors of a strong member
    cannot take all of the weight; they stay as they are after a member that is perfect or worse
    than chance.

    Args:
        config: method, learning rate, source of the errors, loss of AdaBoost.R2.
        num_labels: K, or 1 for regression.
        weights: those before this member.
        predictions: the member's.

    Returns:
        The weights for the next member, and the step on the training examples.

    Examples:
        >>> wrong, right = np.float32([[1, 0]]), np.float32([[0, 1]])
        >>> rows, labels = np.concatenate([right, right, right, wrong]), np.ones(4, int)
        >>> config = EnsembleConfig(errors="train", learning_rate=1.0, floor=0.0)
        >>> made = Predictions(rows, labels, rows[:1], labels[:1])
        >>> after, step = boost_round(config, 2, Weights.uniform(4, 1), made)
        >>> after.train.round(3).tolist(), step.error
        ([0.167, 0.167, 0.167, 0.5], 0.25)
    """
    train_loss, held_out_loss = _losses(config, num_labels, weights, predictions)
    step = partial(boost, num_labels=num_labels, learning_rate=config.learning_rate)
    tempered = partial(temper, floor=config.floor)
    if config.errors == "holdout":
        judged = step(weights.selection, held_out_loss)
        error = judged.error
        if error == 0 and train_loss @ weights.train > 0:
            error = 0.5 / (len(held_out_loss) + 1)
        after = step(weights.train, train_loss, error=error)
        selection = tempered(judged.sample_weight)
    else:
        after, selection = step(weights.train, train_loss), weights.selection
    if after.status != "ok":  # the next member learns what this one was to learn
        return weights, after
    return Weights(tempered(after.sample_weight), selection), after


def _losses(
    config: EnsembleConfig, num_labels: int, weights: Weights, predictions: Predictions
) -> tuple[Floats, Floats]:
    train, train_labels = predictions.train, predictions.train_labels
    held_out, held_out_labels = predictions.selection, predictions.selection_labels
    if num_labels > 1:
        return misclassified(train, train_labels), misclassified(held_out, held_out_labels)
    # The largest error that counts is 1, on both sets if both do: one error means one thing.
    scale = np.abs(train[:, 0] - train_labels)[weights.train > 0].max()
    if config.errors == "holdout":
        scale = max(scale, np.abs(held_out[:, 0] - held_out_labels).max())
    return (
        regression_loss(train[:, 0], train_labels, config.loss, float(scale)),
        regression_loss(held_out[:, 0], held_out_labels, config.loss, float(scale)),
    )
