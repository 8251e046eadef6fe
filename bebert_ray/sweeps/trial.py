"""A trial: an ordinary run in a directory of its own, which begins with the shared stages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bebert_ray.cluster.pool import PATIENCE
from bebert_ray.cluster.resources import Allotments, Node, allot
from bebert_ray.config import Config
from bebert_ray.config.recipes import kind_of
from bebert_ray.data.metrics import primary, worst
from bebert_ray.errors import Diverged, RunError, UserError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.evaluate import ensemble_scores
from bebert_ray.pipeline.memory import EncoderShape
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.console import console
from bebert_ray.run import execute
from bebert_ray.storage import Artifact, exists, fetch, lock
from bebert_ray.sweeps.records import read_records
from bebert_ray.sweeps.settings import Sweep
from bebert_ray.training.work import Logits

NUMBER = "number"  # the key of the trial's number among the values that Tune suggests
FIGURES = ("score", "bits", "members", "seconds", "state", "note")  # of a record, in a report

Report = Callable[[dict[str, Any]], None]


def run_trial(
    suggested: dict[str, Any],
    sweep: Sweep,
    shared: Prepared,
    nodes: list[Node],
    report: Report,
) -> None:
    """Train the ensemble that is suggested, and report how good it is as it grows.

    A report holds `score`, `bits`, `members`, `seconds`, `trained`, `state`, `note` and `repeats`,
    as `Record` has them; `state` is "running" in all but the last one. A trial that fails or
    diverges reports the worst score there is: a search can do without its figures, but not without
    a score.

    Args:
        suggested: the point, and the number of the trial.
        sweep: what is swept.
        shared: the run whose stages are there.
        nodes: the machines that the trials share.
        report: receives the reports.
    """
    point = dict(suggested)
    number = point.pop(NUMBER)
    for record in read_records(sweep.directory):
        if record.is_final and record.point == point and record.number != number:
            figures = {name: getattr(record, name) for name in FIGURES}
            trained, _ = record.reports[-1]
            report(figures | {"trained": trained, "repeats": record.number})
            return
    prepared = sweep.prepared(shared, number, point)
    start = kind_of(prepared.config).trunks[0].start
    reports = TrialReports(prepared, fetch(shared.directory / start).facts["bits"], report)
    try:
        run = _train(
            prepared, shared, trial_allotments(prepared.config, nodes, sweep, shared.shape), reports
        )
    except Diverged as error:
        reports.fail("diverged", str(error))
    except (RunError, UserError) as error:
        reports.fail("failed", str(error))
    else:
        reports.finish(run)


def trial_allotments(
    config: Config, nodes: list[Node], sweep: Sweep, shape: EncoderShape | None = None
) -> Allotments:
    """What a trial gets of the cluster: workers for as many members as it can train at once.

    It gets no more than one machine has room for, so that it can go on on another when that one is
    gone. Without `resources.member.cpu`, a member gets its share of a cluster that all trials use
    at once, as far as they fit.
    """
    allotments = allot(config, nodes, sweep.settings.trials, shape)
    most = max(node.holds(allotments.member) for node in nodes)
    in_flight = min(allotments.in_flight, most)
    return replace(allotments, in_flight=in_flight, together=in_flight)


def _train(
    prepared: Prepared, shared: Prepared, allotments: Allotments, reports: TrialReports
) -> Run:
    directory = prepared.directory
    if not exists(shared.directory):
        raise UserError(f"{shared.directory} is gone, and the trial cannot go on without it")
    # The trial's driver of before may just be ending, if it was killed.
    with lock(directory, patience=PATIENCE):
        link_stages(shared.directory.local, directory)
        # The workers find their room in the placement group of this process.
        return execute(prepared, allotments, console(stderr=True), on_step=reports.on_step)


class TrialReports:
    """Reports how good the ensemble of a run is after each member, or each round of all members.

    Between rounds all members count the same: alphas come with the last round.

    Args:
        prepared: the run.
        member_bits: size of a member.
        report: receives the reports.
    """

    def __init__(self, prepared: Prepared, member_bits: int, report: Report):
        self._prepared = prepared
        self._member_bits, self._send = member_bits, report
        self._seconds: dict[str, float] = {}  # by member, over its rounds so far
        self._reported = 0  # members
        self._in_round: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def on_step(self, run: Run, step: Step, artifact: Artifact, logits: Logits) -> None:
        """Report what a step has added, if it completes a member or a round of all."""
        if step.member is None:
            return
        seconds = self._seconds.get(step.job, 0.0)  # rounds may be looked up in any order
        self._seconds[step.job] = max(seconds, artifact.facts["seconds"])
        if step.kind == "round":
            self._report_round(run, step.round, logits["selection"])
        elif self._prepared.config.rounds == 1:
            self._report_members(run)

    def finish(self, run: Run) -> None:
        """Report the whole ensemble."""
        self._report_ensemble(run, "done")

    def fail(self, state: str, note: str) -> None:
        """Report that there is no ensemble."""
        members = self._prepared.config.ensemble.members
        self._report(worst(self._prepared.task), members, members, state, note)

    def _report_round(self, run: Run, round: int, logits: np.ndarray) -> None:
        made, config = self._in_round[round], self._prepared.config
        made.append(logits)
        if len(made) == config.ensemble.members:
            # As far as the slowest is, and so as this ensemble is: others may be in later rounds.
            trained = len(made) * (round + 1) / config.rounds
            self._report(self._score(run, made, [1.0] * len(made)), len(made), trained)

    def _report_members(self, run: Run) -> None:
        if self._reported < len(run.ensemble.members) and not run.ensemble.finished:
            self._reported = len(run.ensemble.members)
            self._report_ensemble(run, "running")

    def _report_ensemble(self, run: Run, state: str) -> None:
        members = run.ensemble.members
        logits = [member.logits["selection"] for member in members]
        score = self._score(run, logits, [member.alpha for member in members])
        self._report(score, len(members), len(members), state, run.ensemble.note)

    def _score(self, run: Run, logits: list[np.ndarray], alphas: list[float]) -> float:
        task, labels = self._prepared.task, run.splits["selection"].labels
        return ensemble_scores(task, np.stack(logits), alphas, labels)[primary(task)]

    def _report(
        self, score: float, members: int, trained: float, state: str = "running", note: str = ""
    ) -> None:
        self._send(
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
