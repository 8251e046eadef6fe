"""Members without models, whose logits are made up; and trials that were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import TASKS, Task
from bebert_ray.ensemble.aggregate import combine
from bebert_ray.ensemble.driver import Run, Walk, found
from bebert_ray.ensemble.prepare import Prepared, open_run, prepare
from bebert_ray.ensemble.shared import StagesOnly, link_stages
from bebert_ray.ensemble.worker import Worker
from bebert_ray.storage import Miss
from bebert_ray.sweep.kept import open_directory
from bebert_ray.sweep.records import Record, write_record
from bebert_ray.sweep.settings import Sweep, load_sweep
from bebert_ray.sweep.space import Point
from bebert_ray.sweep.trial import FIGURES, Watched


@dataclass(frozen=True, eq=False)
class Library:
    """Members' held-out logits, [M, n, K], and the labels, [n]."""

    task: Task
    logits: np.ndarray
    labels: np.ndarray

    def score(self, alphas: Any) -> float:
        scores = combine(self.logits, alphas)
        return evaluate(self.task, scores, self.labels)[primary(self.task)]

    @property
    def uniform(self) -> np.ndarray:
        return np.full(len(self.logits), 1 / len(self.logits))


def make_library(name: str, members: int, n: int, seed: int, skill: float = 1.0) -> Library:
    """Members that are right more often than not, each in its own way."""
    task, rng = TASKS[name], np.random.default_rng(seed)
    if task.is_regression:
        labels = rng.uniform(0, 5, n).astype(np.float32)
        logits = labels[None, :, None] + rng.normal(scale=2, size=(members, n, 1))
    else:
        labels = rng.integers(task.num_labels, size=n)
        logits = rng.normal(size=(members, n, task.num_labels))
        logits[:, np.arange(n), labels] += skill * rng.random((members, 1))
    return Library(task, logits.astype(np.float32), labels)


libraries = st.builds(
    make_library,
    name=st.sampled_from(["mrpc", "cola", "mnli", "stsb"]),
    members=st.integers(1, 6),
    n=st.integers(2, 60),
    seed=st.integers(0, 10**6),
    skill=st.sampled_from([0.0, 1.0, 3.0]),
)


@pytest.fixture
def library() -> Library:
    """Four members and 408 examples, as MRPC's dev set has."""
    return make_library("mrpc", 4, 408, seed=0)


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
    walk: Walk,
    most: int = 100,
    ahead: bool = False,
) -> None:
    """Take the steps of a run.

    Args:
        prepared: the run.
        splits: its examples.
        walk: which steps are due.
        most: so many steps that are not done yet.
        ahead: whether the first members run ahead, through all their rounds.
    """
    arrays = {name: columns.to_arrays() for name, columns in splits.items()}
    run = (prepared.config, prepared.task, prepared.checkpoint, prepared.directory)
    worker = Worker(*run, threads=1, report=lambda _: None)
    steps = walk.start()
    while steps:
        if ahead:
            steps.sort(key=lambda step: step.member or 0)
        step = steps.pop(0)
        known = found(step)
        if isinstance(known, Miss):
            if not most:
                return
            most -= 1
            known = worker.take(step, arrays)
        steps += walk.advance(step, *known)


def train_sweep(overrides: list[str], trials: list[tuple[Point, int]]) -> Trained:
    """Train the trials of a sweep in this process, without Ray.

    Args:
        overrides: the sweep.
        trials: the point of each, and how many steps it may take before it is stopped.
    """
    sweep = load_sweep(None, overrides)
    open_directory(sweep)
    shared = prepare(sweep.shared())
    splits = open_run(shared)
    take_all(shared, splits, StagesOnly(Run(shared, splits)))
    records, told = [], []
    for number, (point, most) in enumerate(trials):
        prepared = sweep.prepared(shared, number, point)
        link_stages(shared.directory.local, prepared.directory.local)
        reports: list[dict[str, Any]] = []
        watched = Watched(prepared, 100, reports.append)
        watched.run = Run(prepared, open_run(prepared))
        take_all(prepared, splits, watched, most)
        if watched.run.finished:
            watched.finish()
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
