"""Trials that were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bebert_ray.cluster.worker import Worker
from bebert_ray.data.columns import Columns
from bebert_ray.pipeline.driver import Run, found
from bebert_ray.pipeline.prepare import Prepared, open_run, prepare
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.run import OnStep
from bebert_ray.storage import Miss
from bebert_ray.sweeps.directory import open_directory
from bebert_ray.sweeps.records import Record, write_record
from bebert_ray.sweeps.settings import Sweep, load_sweep
from bebert_ray.sweeps.space import Point
from bebert_ray.sweeps.trial import FIGURES, TrialReports


@dataclass(frozen=True)
class Trained:
    """A sweep whose trials have been trained in this process, without Ray.

    Attributes:
        sweep: what was swept.
        shared: the run whose stages they start from.
        splits: its examples.
        records: of the trials.
        told: what each of them reported.
    """

    sweep: Sweep
    shared: Prepared
    splits: dict[str, Columns]
    records: list[Record]
    told: list[list[dict[str, Any]]]


def take_all(
    prepared: Prepared,
    splits: dict[str, Columns],
    run: Run,
    on_step: OnStep = lambda *_: None,
    most: int = 100,
    ahead: bool = False,
) -> None:
    """Run the steps of a run in this process.

    Args:
        prepared: the run.
        splits: its examples.
        run: tells which steps are due.
        on_step: called after each step.
        most: so many steps that are not done yet.
        ahead: whether the first members run ahead, through all their rounds.
    """
    arrays = {name: columns.to_arrays() for name, columns in splits.items()}
    known_of = (prepared.config, prepared.task, prepared.directory)
    worker = Worker(*known_of, threads=1, report=lambda _: None)
    steps = run.start()
    while steps:
        if ahead:
            steps.sort(key=lambda step: step.member or 0)
        step = steps.pop(0)
        known = found(step)
        if isinstance(known, Miss):
            if not most:
                return
            most -= 1
            known = worker.run(step, arrays)
        steps += run.advance(step, *known)
        on_step(run, step, *known)


def train_sweep(overrides: list[str], trials: list[tuple[Point, int]]) -> Trained:
    """Train the trials of a sweep in this process, without Ray.

    Args:
        overrides: the sweep.
        trials: the point of each, and how many steps it may take before it is stopped.
    """
    sweep = load_sweep(None, overrides)
    shared = prepare(sweep.shared())
    sweep = sweep.with_arithmetic(shared.config.training)
    open_directory(sweep)
    splits = open_run(shared)
    take_all(shared, splits, Run(shared, splits, stages_only=True))
    records, told = [], []
    for number, (point, most) in enumerate(trials):
        prepared = sweep.prepared(shared, number, point)
        link_stages(shared.directory.local, prepared.directory.local)
        reports: list[dict[str, Any]] = []
        told_of = TrialReports(prepared, 100, reports.append)
        run = Run(prepared, open_run(prepared))
        take_all(prepared, splits, run, told_of.on_step, most)
        if run.finished:
            told_of.finish(run)
        last = {name: reports[-1][name] for name in FIGURES}
        if last["state"] == "running":
            last["state"] = "stopped"
        pairs = [(report["trained"], report["score"]) for report in reports]
        records.append(Record(number, point, **last, reports=pairs))
        write_record(sweep.directory, records[-1])
        told.append(reports)
    return Trained(sweep, shared, splits, records, told)


@pytest.fixture(scope="session")
def trained(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trials with 1, 2 and 2 members; the last was stopped after its first. Not to be changed."""
    overrides = [
        *tiny_run,
        f"output={tmp_path_factory.mktemp('sweeps') / 'sweep'}",
        "export.remainder=fp16",
        "sweep.trials=3",
        "sweep.size=2",
        "sweep.space.member.learning_rate.loguniform=[1e-4, 1e-2]",
        "sweep.space.ensemble.members.randint=[1, 3]",
    ]
    trials = [(1e-3, 1, 9), (2e-3, 2, 9), (1e-2, 2, 1)]
    return train_sweep(
        overrides,
        [
            ({"member.learning_rate": rate, "ensemble.members": members}, most)
            for rate, members, most in trials
        ],
    )
