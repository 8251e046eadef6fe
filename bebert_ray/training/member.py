"""A member in training: from the shared checkpoint, in rounds, each with weights of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bebert_ray.nn.margins import (
    bits_of,
    differing,
    encoder_bits,
    redraw_margins_,
    share_differing,
)
from bebert_ray.training.fit import Fit
from bebert_ray.training.losses import Loss, label_loss, prediction_loss
from bebert_ray.training.stages import match_hidden
from bebert_ray.training.work import Model, Work

OWN = ("warmup", "quantizer_learning_rate")  # what members share with the stages unless it is set


class MemberTraining:
    """Trains one binary model from the shared checkpoint, and keeps it between rounds.

    The epochs of a member are divided into rounds, as evenly as whole epochs can be, in each of
    which it sees its own weights of the training examples. The optimizers and the schedule of the
    learning rate go on from round to round. The hidden passes of strategy C belong to the first
    round.

    Args:
        work: see `Work`; its checkpoints are where the training goes on.
        member: number of the member, part of its seed.
    """

    def __init__(self, work: Work, member: int):
        config, stage = work.config, work.config.member
        seed = work.seed("member", member)
        self._model = work.parent(work.kind.start)
        self._start = bits_of(self._model)
        if stage.margins == "random":
            redraw_margins_(self._model, work.seed("margins", member))
        own = {name: value for name in OWN if (value := getattr(stage, name)) is not None}
        self._settings = replace(
            work.settings(stage.epochs, stage.learning_rate, stage.batch_size, seed),
            latent_rate=stage.latent_rate,
            **own,
        )
        hidden_epochs = stage.hidden_epochs if config.ensemble.strategy == "C" else 0
        self._hidden = replace(
            self._settings, epochs=hidden_epochs, learning_rate=stage.hidden_learning_rate
        )
        self._fit: Fit | None = None
        self._rounds, self._done = config.rounds, 0

    def advance(self, work: Work, sample_weight: np.ndarray) -> Model:
        """Train the rounds that are not done yet.

        Args:
            work: see `Work`; may be another one each time.
            sample_weight: of each round so far, [rounds, n], in dataset order; each sums to 1.

        Returns:
            The model as it stands; after the last round, with the weights of its best epoch.
        """
        for round in range(self._done, len(sample_weight)):
            self._train(work, sample_weight[round], round)
        self._done = len(sample_weight)
        if self._done == self._rounds and self._fit is not None:
            self._fit.finish()
        return self._model

    def flipped(self) -> dict[str, Any]:
        """How many binary weights have not the sign that the shared checkpoint has.

        Returns:
            `flipped`: the share of the encoder's; `flipped_by_layer`: of each layer's, tables of
            embeddings included.
        """
        encoder = encoder_bits(self._model)
        start = {name: self._start[name] for name in encoder}
        by_layer = differing(self._start, bits_of(self._model))
        return {"flipped": share_differing(start, encoder), "flipped_by_layer": by_layer}

    def _train(self, work: Work, sample_weight: np.ndarray, round: int) -> None:
        draw: np.ndarray | None = sample_weight
        loss_weight: Tensor | None = None
        repeats: np.ndarray | None = None
        if work.config.ensemble.sample_weight == "loss":
            mean_one = torch.from_numpy(sample_weight * len(sample_weight))
            draw, loss_weight = None, mean_one.float().to(work.device)
        elif work.config.ensemble.method == "bagging":
            # The weights are a bootstrap sample: each epoch has it as it is, and draws no other.
            draw, repeats = None, np.rint(sample_weight * len(sample_weight)).astype(np.int64)
        elif np.ptp(sample_weight) == 0:
            draw = None  # drawing from equal weights would only leave examples out
        shown = round if self._rounds > 1 else None
        if self._fit is None:
            match_hidden(
                work,
                self._model,
                work.kind.teacher,
                self._hidden,
                draw,
                loss_weight,
                shown,
                repeats,
            )
            self._fit = work.open_fit(
                self._model, self._settings, phase=1, flipped=lambda: self.flipped()["flipped"]
            )
        until = self._settings.epochs * (round + 1) // self._rounds
        work.advance(self._fit, self._loss(work, loss_weight), until, draw, shown, repeats)

    def _loss(self, work: Work, loss_weight: Tensor | None) -> Loss:
        if work.config.ensemble.strategy == "A":
            return label_loss(self._model, loss_weight)
        target, temperature = (
            work.parent_logits(work.kind.teacher),
            work.config.training.temperature,
        )
        return prediction_loss(self._model, target, temperature, loss_weight)
