"""The members of an ensemble: which are due, with which weights, and what say each one gets.

No Ray here: the state of an ensemble follows from the artifacts of its members alone, and so a plan
and a run, a first run and a resumed one, walk the same way.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.data.columns import Columns
from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.ensemble.rounds import Predictions, Weights, boost_round, member_weight
from bebert_ray.storage import Artifact, Miss, find, hash_arrays, write_atomic
from bebert_ray.training.stages import load_logits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Job:
    """A model to train from the split checkpoint: a member, or one of the folds that judge it.

    Attributes:
        name: such as `000`, or `000-fold-1`.
        member: number of the member.
        path: directory of the artifact.
        sample_weight: [n], sums to 1.
        inputs: all that the outcome depends on.
    """

    name: str
    member: int
    path: Path
    sample_weight: Floats
    inputs: dict[str, Any]

    def find(self) -> Artifact | Miss:
        """The finished model, if there is one."""
        return find(self.path, self.inputs)


@dataclass(frozen=True)
class Member:
    """A finished member: its artifact, its say in the vote, and the weighted error that gave it."""

    name: str
    artifact: Artifact
    alpha: float
    error: float | None = None


@dataclass
class Ensemble:
    """An ensemble in the making.

    Until it is `finished`, ask what is `due`, do it, and `advance` with the artifacts.
    """

    prepared: Prepared
    splits: dict[str, Columns]
    parents: dict[str, Artifact]
    members: list[Member] = field(default_factory=list)
    note: str = ""
    stopped: bool = False

    def __post_init__(self) -> None:
        self.weights = Weights.uniform(len(self.splits["train"]), len(self.splits["selection"]))

    @property
    def finished(self) -> bool:
        """Whether all members are there, or boosting has come to its end before."""
        return self.stopped or len(self.members) == self.prepared.config.ensemble.members

    def due(self) -> list[Job]:
        """The jobs that can be done now, none of which waits for another."""
        config = self.prepared.config.ensemble
        if config.method == "bagging":
            return [self._job(member_name(i), i) for i in range(config.members)]
        number = len(self.members)
        jobs = [self._job(member_name(number), number)]
        if config.errors == "out_of_fold":
            jobs += [
                self._job(f"{member_name(number)}-fold-{k}", number, self._folds() == k)
                for k in range(config.folds)
            ]
        return jobs

    def advance(self, artifacts: list[Artifact]) -> None:
        """Take in what the jobs that were due have left: members, and the weights of the next."""
        config = self.prepared.config.ensemble
        if config.method == "bagging":
            self.members = [Member(found.path.name, found, 1.0) for found in artifacts]
            return
        artifact, *folds = artifacts
        name = artifact.path.name
        logits = load_logits(artifact.path)
        train = logits["train"]
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
        self.weights, step = boost_round(config, num_labels, self.weights, predictions)
        alpha, keep = step.alpha, True
        if step.status == "worse_than_chance":
            self.stopped, keep = True, not self.members
            alpha = 1.0
            self.note = (
                f"member {name} is no better than chance (weighted error {step.error:.3f}): "
                f"boosting ends with {max(1, len(self.members))} member(s)"
            )
        elif step.status == "perfect":
            self.stopped = True
            self.note = f"member {name} makes no errors: boosting ends with it"
        if keep:
            self.members.append(Member(name, artifact, alpha, step.error))

    def _job(self, name: str, member: int, left_out: NDArray[np.bool_] | None = None) -> Job:
        prepared = self.prepared
        rng = np.random.default_rng([prepared.config.seed, member])
        weight = member_weight(prepared.config.ensemble, self.weights, rng)
        if left_out is not None:  # an example of weight 0 is never drawn
            weight = np.where(left_out, 0.0, weight)
            weight = weight / weight.sum()
        inputs = prepared.member_inputs(
            member, hash_arrays({"sample_weight": weight}), self.parents
        )
        path = prepared.directory / "members" / name
        return Job(name, member, path, weight, inputs)

    def _folds(self) -> NDArray[np.int64]:
        # The fold of each training example, the same for every member.
        config = self.prepared.config
        n = len(self.splits["train"])
        return np.random.default_rng([config.seed, n]).permutation(n) % config.ensemble.folds


def member_name(number: int) -> str:
    """Name of a member, and of its directory."""
    return f"{number:03d}"


def save_weights(directory: Path, job: Job) -> None:
    """Keep the weights of a job where they can be looked at: `weights/<name>.npy`, [n] float64."""
    buffer = io.BytesIO()
    np.save(buffer, job.sample_weight)
    write_atomic(directory / "weights" / f"{job.name}.npy", buffer.getvalue())
