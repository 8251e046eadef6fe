"""The members of an ensemble: which are due, with which weights, and what say each one gets.

No Ray here: the state of an ensemble follows from the artifacts of its members alone, and so a plan
and a run, a first run and a resumed one, walk the same way.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bebert_ray.config import EnsembleConfig
from bebert_ray.data.columns import Columns
from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.ensemble.rounds import Predictions, Weights, boost_round, member_weight
from bebert_ray.ensemble.steps import Step, member_name, member_step
from bebert_ray.ensemble.weights import Boost
from bebert_ray.storage import Artifact, write_atomic
from bebert_ray.training.stages import load_logits


@dataclass(frozen=True)
class Member:
    """A finished member.

    Attributes:
        name: such as `member 000`.
        artifact: its model.
        alpha: its say in the vote.
        error: the weighted error that gave the say; None for bagging.
    """

    name: str
    artifact: Artifact
    alpha: float
    error: float | None = None


@dataclass
class Ensemble:
    """An ensemble in the making: until it is `finished`, do what is `due`, and `advance`.

    Attributes:
        prepared: the run.
        splits: its examples by split.
        parents: the finished stages by name.
        members: those that are there, in order.
        note: why there will be fewer than asked for, if so.
    """

    prepared: Prepared
    splits: dict[str, Columns]
    parents: dict[str, Artifact]
    members: list[Member] = field(default_factory=list)
    note: str = ""

    def __post_init__(self) -> None:
        self._weights = Weights.uniform(len(self.splits["train"]), len(self.splits["selection"]))

    @property
    def finished(self) -> bool:
        """Whether all members are there, or boosting has come to its end before."""
        return bool(self.note) or len(self.members) == self._config.members

    def due(self) -> list[Step]:
        """What can be done now: steps of which none waits for another."""
        if self._config.schedule == "parallel":
            return [self._step(member) for member in range(self._config.members)]
        member = len(self.members)
        return [self._step(member)] + [self._step(member, k) for k in judges(self._config)]

    def advance(self, artifacts: list[Artifact]) -> None:
        """Take in what the steps that were due have made, in their order."""
        if self._config.method == "bagging":
            for artifact in artifacts:
                self.members.append(Member(member_name(len(self.members)), artifact, 1.0))
            return
        artifact, *folds = artifacts
        logits = load_logits(artifact.path)
        train = logits["train"].copy()
        for k, fold in enumerate(folds):
            left_out = self._folds() == k
            train[left_out] = load_logits(fold.path)["train"][left_out]
        predictions = Predictions(
            train,
            self.splits["train"].labels,
            logits["selection"],
            self.splits["selection"].labels,
        )
        num_labels = self.prepared.task.num_labels
        self._weights, round_ = boost_round(self._config, num_labels, self._weights, predictions)
        self._judge(artifact, round_)

    def _judge(self, artifact: Artifact, round_: Boost) -> None:
        name, alpha = member_name(len(self.members)), round_.alpha
        last = len(self.members) + 1 == self._config.members
        if round_.status == "worse_than_chance":
            self.note = (
                f"{name} is no better than chance (weighted error {round_.error:.3f}): boosting "
                f"ends {'before' if self.members else 'with'} it"
            )
            if self.members:
                return
            alpha = 1.0  # the only one there is, for what it is worth
        elif round_.status == "perfect" and not last:
            self.note = f"{name} makes no errors to learn from: boosting ends with it"
        self.members.append(Member(name, artifact, alpha, round_.error))

    @property
    def _config(self) -> EnsembleConfig:
        return self.prepared.config.ensemble

    def _step(self, member: int, fold: int | None = None) -> Step:
        rng = np.random.default_rng([self.prepared.config.seed, member])
        weight = member_weight(self._config, self._weights, rng)
        if fold is not None:  # an example of weight 0 is never drawn
            weight = np.where(self._folds() == fold, 0.0, weight)
            weight = weight / weight.sum()
        return member_step(self.prepared, member, weight, self.parents, fold)

    def _folds(self) -> NDArray[np.int64]:
        # The fold of each training example, the same for every member.
        n = len(self.splits["train"])
        rng = np.random.default_rng([self.prepared.config.seed, n])
        return rng.permutation(n) % self._config.folds


def judges(config: EnsembleConfig) -> range:
    """The folds that are trained beside each member, for predictions of examples not seen."""
    out_of_fold = config.method == "boosting" and config.errors == "out_of_fold"
    return range(config.folds if out_of_fold else 0)


def member_steps(config: EnsembleConfig) -> list[str]:
    """Names of all steps that members may take, in order."""
    return [
        member_name(member, fold)
        for member in range(config.members)
        for fold in (None, *judges(config))
    ]


def save_weights(sample_weight: NDArray[np.float64], directory: Path, name: str) -> None:
    """Keep a member's weights where people can look at them: `weights/<name>.npy`, [n]."""
    buffer = io.BytesIO()
    np.save(buffer, sample_weight)
    write_atomic(directory / "weights" / f"{name}.npy", buffer.getvalue())
