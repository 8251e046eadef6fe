"""The search: Ray Tune runs trials where optuna suggests, and ASHA stops those that fall behind."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna
from ray import tune
from ray.tune.error import TuneError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from bebert_ray.cluster.pool import Crew
from bebert_ray.cluster.resources import Node, allot
from bebert_ray.data.columns import Columns
from bebert_ray.errors import RunError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.layout import CHECKPOINTS
from bebert_ray.pipeline.prepare import Prepared, open_run
from bebert_ray.pipeline.shared import StagesOnly
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Artifact, lock, remove
from bebert_ray.sweep.directory import to_run
from bebert_ray.sweep.keeper import Keeper, Say
from bebert_ray.sweep.records import (
    SCORE,
    SCORE_AND_BITS,
    STUDY,
    Record,
    read_records,
    study_of,
)
from bebert_ray.sweep.settings import Sweep, trial_directory
from bebert_ray.sweep.space import Point, corners
from bebert_ray.sweep.trial import NUMBER, run_trial, trial_resources
from bebert_ray.training.work import Logits

REDUCTION = 2  # ASHA: of the trials at a rung, the better one in so many goes on
RANDOM = 10  # trials at most that are drawn at random before optuna's model has a say


def make_stages(shared: Prepared, nodes: list[Node], console: Console) -> dict[str, Columns]:
    """Make the stages that all trials start from, as far as they are not there.

    Args:
        shared: the run that makes them, and no members.
        nodes: the machines.
        console: where to show the progress.

    Returns:
        The tokenised splits.
    """
    with lock(shared.directory):
        splits = open_run(shared)
        with Board(shared.directory, console) as board:
            crew = Crew(shared, splits, allot(shared.config, nodes), board)
            crew.do(StagesOnly(Run(shared, splits, crew.report)))
            crew.disband()  # trials need the room
    return splits


def take(
    step: Step,
    prepared: Prepared,
    splits: dict[str, Columns],
    nodes: list[Node],
    console: Console,
) -> None:
    """Have a single step taken by a worker, unless it is done.

    Args:
        step: what is to be done.
        prepared: the run that it belongs to.
        splits: its examples.
        nodes: the machines.
        console: where to show the progress.
    """
    with lock(prepared.directory), Board(prepared.directory, console) as board:
        crew = Crew(prepared, splits, allot(prepared.config, nodes), board)
        crew.do(_Single(step))
        crew.disband()


@dataclass(frozen=True)
class _Single:
    step: Step

    def start(self) -> list[Step]:
        return [self.step]

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        return []


def search(sweep: Sweep, shared: Prepared, nodes: list[Node], say: Say) -> list[Record]:
    """Train the trials that are not done yet, as many at once as there is room for.

    Args:
        sweep: what is swept.
        shared: the run whose stages are there.
        nodes: the machines.
        say: told, in lines, what becomes of each trial.

    Returns:
        The records of all trials.
    """
    records = read_records(sweep.directory)
    final = [record for record in records if record.is_final]
    left = sweep.settings.trials - len(final)
    if left > 0:
        trainable = tune.with_parameters(run_trial, sweep=sweep, shared=shared, nodes=nodes)
        resources = partial(trial_resources, sweep=sweep, nodes=nodes)
        with _quiet(), _explained():
            tune.Tuner(
                tune.with_resources(trainable, resources),
                tune_config=tune.TuneConfig(
                    num_samples=left,
                    search_alg=_searcher(sweep, records),
                    scheduler=_scheduler(sweep, final),
                    reuse_actors=False,  # a trial that was stopped takes its workers along
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=tune.RunConfig(
                    name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                    storage_path=str(sweep.directory / "tune"),
                    callbacks=[Keeper(sweep, final, say), *_trackers(sweep)],
                    failure_config=tune.FailureConfig(
                        max_failures=sweep.config.resources.max_restarts
                    ),
                    verbose=0,
                ),
            ).fit()
    records = read_records(sweep.directory)
    for record in records:
        if record.is_final:
            # Of what was at work when its trial was stopped.
            remove(trial_directory(sweep.directory, record.number) / CHECKPOINTS)
    return records


def _searcher(sweep: Sweep, records: list[Record]) -> OptunaSearch:
    """Optuna, which knows of all trials that came to an end, and begins with those cut off."""
    storage = optuna.storages.InMemoryStorage()
    aims = SCORE if sweep.settings.objective == "score" else SCORE_AND_BITS
    study = study_of(sweep, records, aims, storage)
    for record in to_run(sweep, records):
        study.enqueue_trial(record.point, user_attrs={NUMBER: record.number})
    if not records:
        study.enqueue_trial(sweep.first_point)
    used = {record.number for record in records}
    numbers = (number for number in itertools.count() if number not in used)
    single = len(aims) == 1
    names, modes = list(aims), [aim[:3] for aim in aims.values()]
    return OptunaSearch(
        partial(_suggest, sweep, list(itertools.islice(numbers, sweep.settings.trials))),
        metric=names[0] if single else names,
        mode=modes[0] if single else modes,
        storage=storage,
        study_name=STUDY,
        sampler=optuna.samplers.TPESampler(
            seed=sweep.config.seed + len(records),
            n_startup_trials=min(RANDOM, sweep.settings.trials // 3),
            constant_liar=True,  # not again where a trial is at work
        ),
    )


def _suggest(sweep: Sweep, unused: list[int], trial: Any) -> Point:
    for dimension in sweep.space:
        dimension.suggest(trial)
    number = trial.user_attrs.get(NUMBER)
    return {NUMBER: unused.pop(0) if number is None else number}


def _scheduler(sweep: Sweep, final: list[Record]) -> TrialScheduler:
    """ASHA over the members trained, which knows how far all earlier trials came."""
    if not sweep.settings.early_stopping:
        return FIFOScheduler()
    most = max(sweep.trial(0, corner).ensemble.members for corner in corners(sweep.space))
    asha = ASHAScheduler(
        time_attr="trained",
        metric="score",
        mode="max",
        max_t=most,
        grace_period=1,
        reduction_factor=REDUCTION,
        stop_last_trials=False,  # who is done need not be stopped
    )
    nobody: Any = None  # in the place of the controller, which ASHA does not ask
    for record in final:
        earlier: Any = SimpleNamespace(trial_id=record.name)
        asha.on_trial_add(nobody, earlier)
        for trained, score in record.reports:
            asha.on_trial_result(nobody, earlier, {"trained": trained, "score": score})
    return asha


def _name(trial: Any) -> str:
    return f"trial-{trial.config[NUMBER]:03d}"


def _trackers(sweep: Sweep) -> Iterator[tune.Callback]:
    """Loggers beside Tune's own (TensorBoard, CSV, JSON)."""
    name = sweep.directory.name
    if sweep.settings.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        default = f"file:{sweep.directory / 'mlruns'}"
        uri = os.environ.get("MLFLOW_TRACKING_URI", default)
        yield MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
    if sweep.settings.wandb:
        from ray.air.integrations.wandb import WandbLoggerCallback

        yield WandbLoggerCallback(project=name, log_config=True)


@contextmanager
def _explained() -> Iterator[None]:
    """Tell in a line what Tune could not go on with: a full disk, say."""
    try:
        yield
    except (TuneError, OSError) as error:
        [*_, last] = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"the search broke off: {last}; the same command goes on") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Have Tune leave signals and the screen to us."""
    wanted = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
