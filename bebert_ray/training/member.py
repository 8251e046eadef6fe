"""A member in training: from the shared checkpoint, in rounds, each with weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bebert_ray.boosting.vote import combine
from bebert_ray.config.recipes import Stage, Trunk
from bebert_ray.data.copies import Copies
from bebert_ray.nn.margins import (
    bits_of,
    differing,
    encoder_bits,
    redraw_margins_,
    share_differing,
)
from bebert_ray.storage import fetch
from bebert_ray.training.fit import Fit
from bebert_ray.training.losses import Loss, hidden_loss, label_loss, prediction_loss
from bebert_ray.training.stages import match_hidden
from bebert_ray.training.work import Model, Work, load_logits

OWN = ("warmup", "quantizer_learning_rate")  # what members share with the stages unless it is set


@dataclass(frozen=True, eq=False)
class Lesson:
    """What tells one training of a binary model from another.

    Attributes:
        name: what seeds follow from: ("member", 3), or the name of a baseline.
        trunk: the model that it starts as, and the stage that teaches it.
        strategy: A, B or C, see `ensemble.strategy`.
        rounds: number of rounds that its epochs are divided into.
        times: multiple of the configured epochs, and of `training.max_steps`.
        copies: augmented copies of the training examples. Strategy A leaves them out: a copy may
            no longer have the label of its example, and only a teacher gives it one.
        target: logits to learn in place of the teacher's predictions, [n, K].
    """

    name: tuple[object, ...]
    trunk: Trunk
    strategy: str
    rounds: int = 1
    times: int = 1
    copies: Copies | None = None
    target: Tensor | None = None


def lesson_of(work: Work, member: int) -> Lesson:
    """The training of a member of the ensemble."""
    config, kind = work.config, work.kind
    strategy, copies = config.ensemble.strategy, None
    if strategy != "A" and work.splits.copies is not None:
        own, trunks = config.data.augment.per_member, len(kind.trunks)
        parts = config.ensemble.members if own else trunks
        copies = work.copies_of(member % parts, parts)
    name = ("member", member)
    return Lesson(name, kind.trunk_of(member), strategy, config.rounds, copies=copies)


class MemberTraining:
    """Trains one binary model from the shared checkpoint, and keeps it between rounds.

    The epochs of a member are divided into rounds, as evenly as whole epochs can be, in each of
    which it sees its own weights of the training examples. The optimizers and the schedule of the
    learning rate go on from round to round. The hidden passes of strategy C belong to the first
    round.

    Args:
        work: see `Work`; its checkpoints are where the training goes on.
        lesson: what is trained.
    """

    def __init__(self, work: Work, lesson: Lesson):
        stage, self._lesson = work.config.member, lesson
        seed = work.seed(*lesson.name)
        self._model = work.parent(lesson.trunk.start)
        self._start = bits_of(self._model)
        if stage.margins == "random":
            redraw_margins_(self._model, work.seed("margins", *lesson.name[-1:]))
        own = {name: value for name in OWN if (value := getattr(stage, name)) is not None}
        epochs = stage.epochs * lesson.times
        settings = work.settings(epochs, stage.learning_rate, stage.batch_size, seed)
        self._settings = replace(
            settings,
            latent_rate=stage.latent_rate,
            max_steps=settings.max_steps and settings.max_steps * lesson.times,
            **own,
        )
        two_phases = lesson.strategy == "C" and not stage.joint
        self._hidden = replace(
            self._settings,
            epochs=stage.hidden_epochs * lesson.times if two_phases else 0,
            learning_rate=stage.hidden_learning_rate,
        )
        self._fit: Fit | None = None
        self._rounds, self._done = lesson.rounds, 0

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
                self._lesson.trunk.teacher,
                self._hidden,
                self._lesson.copies,
                draw,
                loss_weight,
                shown,
                repeats,
            )
            self._fit = work.open_fit(
                self._model,
                self._settings,
                phase=1,
                flipped=lambda: self.flipped()["flipped"],
                copies=self._lesson.copies,
            )
        until = self._settings.epochs * (round + 1) // self._rounds
        work.advance(self._fit, self._loss(work, loss_weight), until, draw, shown, repeats)

    def _loss(self, work: Work, loss_weight: Tensor | None) -> Loss:
        lesson, unit = self._lesson, work.unit
        temperature = work.config.training.temperature
        if lesson.target is not None:
            return prediction_loss(self._model, lesson.target, temperature, loss_weight, unit)
        if lesson.strategy == "A":
            return label_loss(self._model, loss_weight, unit)
        teacher = lesson.trunk.teacher
        if lesson.strategy == "C" and work.config.member.joint:
            parent, match = work.parent(teacher), work.kind.match
            return hidden_loss(self._model, parent, match, loss_weight, temperature, unit)
        target = work.predictions_of(teacher, lesson.copies)
        return prediction_loss(self._model, target, temperature, loss_weight, unit)


def train_single(work: Work, stage: Stage) -> Model:
    """A baseline of an ensemble: one member, all examples alike, perhaps for more epochs."""
    start, teacher = stage.parents
    lesson = replace(
        lesson_of(work, 0),
        name=(stage.name,),
        trunk=Trunk(start, teacher),
        rounds=1,
        times=stage.inputs["times"],
    )
    return _alone(work, lesson)


def train_student(work: Work, stage: Stage) -> Model:
    """One model back: a member that learns the vote of the ensemble, on the training examples.

    For classification the target is the logarithm of the ensemble's probabilities, whose softmax
    they are; for regression its prediction. `stage.inputs` are those of the step, with the paths
    of the `members` and the `alphas`.
    """
    members, alphas = stage.inputs["members"], stage.inputs["alphas"]
    logits = [load_logits(fetch(work.directory / path).path)["train"] for path in members]
    vote = combine(np.stack(logits), alphas)
    target = vote if work.splits.task.is_regression else np.log(np.maximum(vote, 1e-12))
    return _alone(
        work,
        Lesson(
            (stage.name,),
            Trunk(stage.parents[0], stage.parents[0]),
            "B",
            target=torch.from_numpy(target.astype(np.float32)).to(work.device),
        ),
    )


RIVALS: dict[str, Callable[[Work, Stage], Model]] = {
    "single": train_single,
    "student": train_student,
}
"""What is trained to be compared with the ensemble; see `config.recipes.Kind.rivals`."""


def _alone(work: Work, lesson: Lesson) -> Model:
    n = len(work.splits.train)
    return MemberTraining(work, lesson).advance(work, np.full((1, n), 1 / n))
