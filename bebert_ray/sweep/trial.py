"""A trial: an ordinary run in a directory of its own, which begins with the shared stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ray import tune

from bebert_ray.boosting.vote import combine
from bebert_ray.cli.common import console
from bebert_ray.cluster.pool import PATIENCE, Crew
from bebert_ray.cluster.resources import Allotments, Node, allot
from bebert_ray.config import Config
from bebert_ray.config.recipes import kind_of
from bebert_ray.data.metrics import evaluate, primary, worst
from bebert_ray.errors import Diverged, RunError, UserError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.prepare import Prepared, open_run
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Artifact, fetch, lock
from bebert_ray.sweep.records import read_records
from bebert_ray.sweep.settings import Sweep
from bebert_ray.training.work import Logits

NUMBER = "number"  # stands among what Tune suggests, beside the point
FIGURES = ("score", "bits", "members", "seconds", "state", "note")  # of a record, in a report

Tell = Callable[[dict[str, Any]], None]


def run_trial(suggested: dict[str, Any], sweep: Sweep, shared: Prepared, nodes: list[Node]) -> None:
    """Train the ensemble that is suggested, and report to Tune how it comes on; a Tune trainable.

    A report holds `score`, `bits`, `members`, `seconds`, `trained`, `state`, `note` and `repeats`,
    as `Record` has them; `state` is "running" but in the last one. A trial that fails or diverges
    reports the worst score there is: a search can do without its figures, but not without one.

    Args:
        suggested: the point, and the number of the trial.
        sweep: what is swept.
        shared: the run whose stages are there.
        nodes: the machines that the trials share.
    """
    point = dict(suggested)
    number = point.pop(NUMBER)
    for record in read_records(sweep.directory):
        if record.is_final and record.point == point and record.number != number:
            figures = {name: getattr(record, name) for name in FIGURES}
            trained, _ = record.reports[-1]
            tune.report(figures | {"trained": trained, "repeats": record.number})
            return
    prepared = sweep.prepared(shared, number, point)
    start = kind_of(prepared.config).start
    watched = Watched(prepared, fetch(shared.directory / start).facts["bits"], tune.report)
    try:
        _train(watched, shared, trial_allotments(prepared.config, nodes, sweep))
    except Diverged as error:
        watched.fail("diverged", str(error))
    except (RunError, UserError) as error:
        watched.fail("failed", str(error))
    else:
        watched.finish()


def trial_allotments(config: Config, nodes: list[Node], sweep: Sweep) -> Allotments:
    """What a trial gets of the cluster: workers for as many members as it can train at once.

    It gets no more than one machine has room for, so that it can go on on another when that one is
    gone. Without `resources.member.cpu`, a member gets its share of a cluster that all trials use
    at once, as far as they fit.
    """
    allotments = allot(config, nodes, runs=sweep.settings.trials)
    most = max(node.holds(allotments.member) for node in nodes)
    in_flight = min(allotments.in_flight, most)
    return replace(allotments, in_flight=in_flight, together=in_flight)


def trial_resources(
    suggested: dict[str, Any], sweep: Sweep, nodes: list[Node]
) -> tune.PlacementGroupFactory:
    """The placement group of a trial: nothing for its driver, a bundle for each worker."""
    point = {key: value for key, value in suggested.items() if key != NUMBER}
    allotments = trial_allotments(sweep.trial(suggested[NUMBER], point), nodes, sweep)
    need = allotments.member
    wanted = {"CPU": need.cpu, "GPU": need.gpu, "memory": need.memory}
    bundle = {name: float(amount) for name, amount in wanted.items() if amount}
    return tune.PlacementGroupFactory([{"CPU": 0.0}, *allotments.in_flight * [bundle]])


def _train(watched: Watched, shared: Prepared, allotments: Allotments) -> None:
    prepared = watched.prepared
    directory = prepared.directory
    # The trial's driver of before may just be ending, if it was killed.
    with lock(directory, patience=PATIENCE):
        link_stages(shared.directory.local, directory.local)
        splits = open_run(prepared)
        with Board(directory, console(stderr=True)) as board:
            # Its workers find their room in the placement group of this process.
            crew = Crew(prepared, splits, allotments, board)
            watched.run = Run(prepared, splits, crew.report)
            crew.do(watched)


class Watched:
    """A run that tells how good its ensemble is after each member, or each round of all.

    Between rounds every member counts the same: the last round alone gives them their alphas.

    Args:
        prepared: the run.
        member_bits: size of a member.
        tell: told of the ensemble.
    """

    def __init__(self, prepared: Prepared, member_bits: int, tell: Tell):
        self.prepared = prepared
        self.run: Run | None = None
        self._member_bits, self._tell = member_bits, tell
        self._seconds: dict[str, float] = {}  # by trainee, over its rounds so far
        self._told = 0  # members
        self._in_round: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def start(self) -> list[Step]:
        """As `Run.start`."""
        return self._begun.start()

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        """As `Run.advance`."""
        due = self._begun.advance(step, artifact, logits, new)
        if step.member is not None:
            self._count(step, artifact)
            if step.stage == "round":
                self._look_at_round(step.round, logits["selection"])
            elif self.prepared.config.rounds == 1:
                self._look_at_members()
        return due

    def finish(self) -> None:
        """Tell of the whole ensemble."""
        self._tell_of_members("done")

    def fail(self, state: str, note: str) -> None:
        """Tell that there is none."""
        members = self.prepared.config.ensemble.members
        self._report(worst(self.prepared.task), members, members, state, note)

    @property
    def _begun(self) -> Run:
        assert self.run is not None
        return self.run

    def _count(self, step: Step, artifact: Artifact) -> None:
        seconds = self._seconds.get(step.trainee, 0.0)  # rounds may be looked up in any order
        self._seconds[step.trainee] = max(seconds, artifact.facts["seconds"])

    def _look_at_round(self, round: int, logits: np.ndarray) -> None:
        made, config = self._in_round[round], self.prepared.config
        made.append(logits)
        if len(made) == config.ensemble.members:
            # As far as the slowest is, and so as this ensemble is: others may be in later rounds.
            trained = len(made) * (round + 1) / config.rounds
            self._report(self._score(made, [1.0] * len(made)), len(made), trained)

    def _look_at_members(self) -> None:
        ensemble = self._begun.ensemble
        if self._told < len(ensemble.members) and not ensemble.finished:
            self._told = len(ensemble.members)
            self._tell_of_members("running")

    def _tell_of_members(self, state: str) -> None:
        members = self._begun.ensemble.members
        logits = [member.logits["selection"] for member in members]
        score = self._score(logits, [member.alpha for member in members])
        self._report(score, len(members), len(members), state, self._begun.ensemble.note)

    def _score(self, logits: list[np.ndarray], alphas: list[float]) -> float:
        task, labels = self.prepared.task, self._begun.splits["selection"].labels
        return evaluate(task, combine(np.stack(logits), alphas), labels)[primary(task)]

    def _report(
        self, score: float, members: int, trained: float, state: str = "running", note: str = ""
    ) -> None:
        self._tell(
            {
                "score": score,
                "bits": members * self._member_bits,
                "members": members,
                "seconds": sum(self._seconds.values()),
                "trained": float(trained),
                "state": state,
                "note": note,
            }
        )
