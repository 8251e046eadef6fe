"""The order of things in an ensemble: which weights each member sees, and what say it gets.

Pure arithmetic on numpy arrays: `weights` has the single steps, this module the settings and the
two sets of examples (those trained on, those held out).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bebert_ray.config import EnsembleConfig
from bebert_ray.ensemble.weights import (
    Boost,
    boost,
    bootstrap,
    misclassified,
    regression_loss,
    temper,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Boosting weights, each summing to 1: `train` [n], and `selection` [s] of the held-out examples."""

    train: Floats
    selection: Floats

    @staticmethod
    def uniform(train: int, selection: int) -> Weights:
        """Where boosting starts."""
        return Weights(np.full(train, 1 / train), np.full(selection, 1 / selection))


@dataclass(frozen=True)
class Predictions:
    """A member's logits [., K] for both sets of examples, and their labels."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.generic]
    selection: NDArray[np.float32]
    selection_labels: NDArray[np.generic]


def member_weight(config: EnsembleConfig, weights: Weights, rng: np.random.Generator) -> Floats:
    """The `sample_weight` [n] that the next member trains with.

    Boosting: the current weights, tempered by `floor`. Bagging: a bootstrap sample's.
    """
    if config.method == "bagging":
        return bootstrap(len(weights.train), rng)
    return temper(weights.train, config.floor)


def boost_round(
    config: EnsembleConfig, num_labels: int, weights: Weights, predictions: Predictions
) -> tuple[Weights, Boost]:
    """The weights after a member, and its say.

    `config.errors` tells where the member's error e, and so its alpha, comes from:

    * `train`: its weighted error on the examples it was trained on, as in AdaBoost. A strong member
      fits these, e is too small, and the next member sees little but label noise;
    * `holdout`: its weighted error on held-out examples, which carry boosting weights of their own;
    * `out_of_fold`: `predictions.train` come from models that did not see the example.

    Args:
        config: method, learning rate, source of the errors, loss of AdaBoost.R2.
        num_labels: K, or 1 for regression.
        weights: those before this member.
        predictions: the member's.

    Returns:
        The weights for the next member, and the step on the training examples.
    """
    train_loss, selection_loss = _losses(config, num_labels, weights, predictions)
    step = {"num_labels": num_labels, "learning_rate": config.learning_rate}
    if config.errors != "holdout":
        after = boost(weights.train, train_loss, **step)
        return replace(weights, train=after.sample_weight), after
    held_out = boost(weights.selection, selection_loss, **step)
    after = boost(weights.train, train_loss, error=held_out.error, **step)
    return Weights(after.sample_weight, held_out.sample_weight), after


def _losses(
    config: EnsembleConfig, num_labels: int, weights: Weights, predictions: Predictions
) -> tuple[Floats, Floats]:
    train, selection = predictions.train, predictions.selection
    if num_labels > 1:
        return (
            misclassified(train, predictions.train_labels),
            misclassified(selection, predictions.selection_labels),
        )
    # The largest error on either set counts as 1 on both, so that one error means one thing.
    scale = max(
        np.abs(train[:, 0] - predictions.train_labels)[weights.train > 0].max(),
        np.abs(selection[:, 0] - predictions.selection_labels).max()
        if config.errors == "holdout"
        else 0.0,
    )
    return (
        regression_loss(train[:, 0], predictions.train_labels, config.loss, scale),
        regression_loss(selection[:, 0], predictions.selection_labels, config.loss, scale),
    )
