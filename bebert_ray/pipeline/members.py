"""The members of an ensemble: which steps are due, with which sample weights, and the alphas.

No Ray here. The state of an ensemble follows from the predictions of its members alone. So a plan
and a run, a first run and a resumed one, come to the same steps.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bebert_ray.boosting.adaboost import Boost
from bebert_ray.boosting.rounds import Predictions, Weights, boost_round, member_weight
from bebert_ray.config import Config
from bebert_ray.data.columns import Columns
from bebert_ray.pipeline.layout import Layout, member_name
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.steps import Step, member_step
from bebert_ray.storage import Artifact, Location, keep
from bebert_ray.training.work import Logits

Report = Callable[[dict[str, Any]], None]


def _silence(_: dict[str, Any]) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Member:
    """A finished member.

    Attributes:
        name: such as `member 000`.
        artifact: its model.
        logits: float32 [n, K] by split.
        alpha: its weight in the vote, at least 0; see `vote_alphas`.
        error: the weighted error that alpha follows from; None without boosting.
    """

    name: str
    artifact: Artifact
    logits: Logits
    alpha: float
    error: float | None = None


def vote_alphas(members: Sequence[Member]) -> list[float]:
    """The weights of the members in the vote, [M]; all 1 if each has an alpha of 0.

    So has an ensemble whose only member is no better than chance.
    """
    alphas = [member.alpha for member in members]
    return alphas if any(alphas) else [1.0] * len(alphas)


class Ensemble:
    """The state of an ensemble in training: `start` it, then `advance` it with each finished step.

    Member i of N trains in R rounds. W[r][i] are the sample weights after boosting has processed
    the predictions of members 0 .. i-1 at the end of round r, one after another, from uniform
    weights on.

    * Sequential boosting has one round: member i trains with W[0][i], after the members before it.
      This is AdaBoost.
    * Pipelined boosting trains all members at the same time: round 0 with uniform weights, round r
      of member i with W[r-1][i]. A member learns from errors that the members before it made a
      round earlier. The alphas follow from the predictions of the last round, in one pass as in
      sequential boosting. Two things differ from AdaBoost: the errors are one round old, and a
      member no better than chance does not end boosting, since the members after it are trained
      already; it is left out.
    * Bagging has one round, and a bootstrap sample for each member; with uniform weights every
      member sees all examples. All alphas are 1.

    A round of a member depends only on members before it. So any number of workers, one included,
    can train a pipelined ensemble, with results equal to the bit.

    Args:
        prepared: the run.
        splits: its examples by split.
        parents: the artifacts of the shared stages, by name.
        report: called with the events of errors and alphas.

    Attributes:
        members: the finished members of the ensemble, in order; all of them once `finished`.
        finished: whether no step is left.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        parents: dict[str, Artifact],
        report: Report = _silence,
    ):
        self.prepared, self.splits, self.parents = prepared, splits, parents
        self.members: list[Member] = []
        self._notes: list[str] = []
        self.finished = False
        self._report = report
        self._config, self._rounds = prepared.config.ensemble, prepared.config.rounds
        n = len(splits["train"])
        rng = np.random.default_rng([prepared.config.seed, n])
        self._fold_of = rng.permutation(n) % self._config.folds  # of each training example
        self._uniform = Weights.uniform(n, len(splits["selection"]))
        # Of each round: how many members boosting has processed, and W[r][that many].
        self._passed = [0] * self._rounds
        self._weights = [self._uniform] * self._rounds
        # By round, member and fold; kept until boosting has processed the member.
        self._made: dict[tuple[int, int, int | None], tuple[Artifact, Logits]] = {}
        # Sample weights of each member, a row for each round.
        self._rows: dict[int, list[NDArray[np.float64]]] = {}
        self._rejected: list[Member] = []

    @property
    def note(self) -> str:
        """Why the ensemble has fewer members than configured; empty if it has all."""
        return "; ".join(self._notes)

    def start(self) -> list[Step]:
        """The first steps."""
        first = 1 if self._config.schedule == "sequential" else self._config.members
        return [step for member in range(first) for step in self._steps(member, self._uniform)]

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        """Process a finished step.

        Args:
            step: the step.
            artifact: what it made.
            logits: float32 [n, K] by split.
            new: whether to report errors and alphas that follow.

        Returns:
            The steps that have become due.
        """
        assert step.member is not None
        self._made[step.round, step.member, step.fold] = (artifact, logits)
        due: list[Step] = []
        while not self.finished and self._can_pass(step.round):
            due += self._pass(step.round, self._report if new else _silence)
        return due

    def _can_pass(self, round: int) -> bool:
        member = self._passed[round]
        return all((round, member, k) in self._made for k in (None, *self._config.fold_numbers))

    def _pass(self, round: int, report: Report) -> list[Step]:
        # Process the next member of this round: its alpha, the weights after it, the steps now due.
        member, before = self._passed[round], self._weights[round]
        self._passed[round] += 1
        artifact, logits = self._made.pop((round, member, None))
        last = round + 1 == self._rounds
        if self._config.method != "boosting":
            self.members.append(Member(member_name(member), artifact, logits, 1.0))
        else:
            predictions = self._predictions(member, logits)
            num_labels = self.prepared.task.num_labels
            after, boost = boost_round(self._config, num_labels, before, predictions)
            self._weights[round] = after
            report(
                {
                    "kind": "boost",
                    "stage": member_name(member),
                    "round": None if self._rounds == 1 else round,
                    "error": boost.error,
                    "alpha": boost.alpha,
                }
            )
            if last:
                self._judge(member, artifact, logits, boost)
        if last and self._passed[round] == self._config.members:
            self.finished = True
        if self.finished and not self.members:
            self.members = self._rejected[:1]  # an ensemble has one member at least
        if not last:
            return self._steps(member, before)
        if self._config.schedule == "sequential" and not self.finished:
            return self._steps(member + 1, self._weights[round])
        return []

    def _predictions(self, member: int, logits: Logits) -> Predictions:
        train = logits["train"].copy()
        for k in self._config.fold_numbers:
            left_out = self._fold_of == k
            train[left_out] = self._made.pop((0, member, k))[1]["train"][left_out]
        labels, held_out_labels = (self.splits[name].labels for name in ("train", "selection"))
        return Predictions(train, labels, logits["selection"], held_out_labels)

    def _judge(self, member: int, artifact: Artifact, logits: Logits, boost: Boost) -> None:
        made = Member(member_name(member), artifact, logits, boost.alpha, boost.error)
        sequential = self._config.schedule == "sequential"
        if boost.status == "worse_than_chance":
            end = "before" if self.members else "with"
            outcome = f"boosting ends {end} it" if sequential else "it is left out"
            reason = f"no better than chance (weighted error {boost.error:.3f})"
            self._notes.append(f"{made.name} is {reason}: {outcome}")
            self._rejected.append(made)
            self.finished = sequential
            return
        self.members.append(made)
        if boost.status == "perfect" and sequential and member + 1 < self._config.members:
            self._notes.append(f"{made.name} makes no errors to learn from: boosting ends with it")
            self.finished = True

    def _steps(self, member: int, weights: Weights) -> list[Step]:
        rng = np.random.default_rng([self.prepared.config.seed, member])
        rows = self._rows.setdefault(member, [])
        rows.append(member_weight(self._config, weights, rng))
        sample_weight = np.stack(rows)
        steps = [member_step(self.prepared, member, sample_weight, self.parents)]
        for k in self._config.fold_numbers:  # an example of weight 0 is never drawn
            seen = np.where(self._fold_of == k, 0.0, sample_weight)
            seen /= seen.sum(axis=1, keepdims=True)
            steps.append(member_step(self.prepared, member, seen, self.parents, k))
        return steps


def member_steps(config: Config) -> list[str]:
    """Names of all steps of members that a run may have, in order."""
    names = []
    for member in range(config.ensemble.members):
        names += [member_name(member, round=round) for round in range(config.rounds - 1)]
        names += [member_name(member, fold) for fold in (None, *config.ensemble.fold_numbers)]
    return names


def keep_weights(step: Step, directory: Location) -> bool:
    """Write the sample weights of the step's last round to `weights/`, a NumPy file [n].

    Returns:
        Whether the file was there already, with the same content.
    """
    assert step.member is not None and step.sample_weight is not None
    buffer = io.BytesIO()
    np.save(buffer, step.sample_weight[-1])
    round = step.round if step.kind == "round" else None
    place = Layout(directory).weights_of(step.member, step.fold, round)
    return keep(place, buffer.getvalue())
