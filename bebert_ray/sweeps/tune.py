"""All of Ray Tune: trials run where optuna suggests, and ASHA stops those that fall behind."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import optuna
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from bebert_ray.cluster.pool import PATIENCE
from bebert_ray.cluster.resources import Node
from bebert_ray.errors import RunError
from bebert_ray.pipeline.layout import CHECKPOINTS
from bebert_ray.pipeline.memory import EncoderShape
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import discard_below, exists, names, remove
from bebert_ray.sweeps.directory import SETTINGS, to_run
from bebert_ray.sweeps.records import (
    SCORE,
    SCORE_AND_BITS,
    STUDY,
    Record,
    best_of,
    ending,
    members_text,
    read_records,
    study_of,
    write_record,
)
from bebert_ray.sweeps.settings import Sweep, trial_directory
from bebert_ray.sweeps.space import Point, corners
from bebert_ray.sweeps.trial import FIGURES, NUMBER, run_trial, trial_allotments
from bebert_ray.training.checkpoints import STATE

REDUCTION = 2  # ASHA: of the trials at a rung, the better one in so many goes on
RANDOM = 10  # trials at most that are drawn at random before optuna's model suggests

Tell = Callable[[str], None]


def search(sweep: Sweep, shared: Prepared, nodes: list[Node], tell: Tell) -> list[Record]:
    """Train the trials that are not done yet, as many at once as there is room for.

    Args:
        sweep: what is swept.
        shared: the run whose stages are there.
        nodes: the machines.
        tell: receives a line for each event of a trial.

    Returns:
        The records of all trials.
    """
    records = read_records(sweep.directory)
    final = [record for record in records if record.is_final]
    left = sweep.settings.trials - len(final)
    if left > 0:
        trainable = tune.with_parameters(_trainable, sweep=sweep, shared=shared, nodes=nodes)
        resources = partial(trial_resources, sweep=sweep, nodes=nodes, shape=shared.shape)
        with _quiet(), _explained(), _not_made_again(sweep):
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
                    callbacks=[TrialRecorder(sweep, final, tell), *_trackers(sweep)],
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
            discard_below(trial_directory(sweep.directory, record.number) / CHECKPOINTS, (STATE,))
    return records


def _trainable(
    suggested: dict[str, Any], sweep: Sweep, shared: Prepared, nodes: list[Node]
) -> None:
    run_trial(suggested, sweep, shared, nodes, tune.report)


def trial_resources(
    suggested: dict[str, Any], sweep: Sweep, nodes: list[Node], shape: EncoderShape | None = None
) -> tune.PlacementGroupFactory:
    """The placement group of a trial: nothing for its driver, a bundle for each worker."""
    point = {key: value for key, value in suggested.items() if key != NUMBER}
    allotments = trial_allotments(sweep.trial(suggested[NUMBER], point), nodes, sweep, shape)
    need = allotments.member
    wanted = {"CPU": need.cpu, "GPU": need.gpu, "memory": need.memory}
    bundle = {name: float(amount) for name, amount in wanted.items() if amount}
    return tune.PlacementGroupFactory([{"CPU": 0.0}, *allotments.in_flight * [bundle]])


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
        stop_last_trials=False,  # a trial that is done need not be stopped
    )
    controller: Any = None  # ASHA does not use it
    for record in final:
        earlier: Any = SimpleNamespace(trial_id=record.name)
        asha.on_trial_add(controller, earlier)
        for trained, score in record.reports:
            asha.on_trial_result(controller, earlier, {"trained": trained, "score": score})
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
    """One line on why Tune stopped, such as a full disk."""
    try:
        yield
    except (TuneError, OSError) as error:
        [*_, last] = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"the search broke off: {last}; the same command goes on") from error


@contextmanager
def _not_made_again(sweep: Sweep) -> Iterator[None]:
    """Undo what Tune does to a directory that is gone: it makes it again for its own records.

    Raises:
        RunError: it is gone.
    """
    try:
        yield
    finally:
        directory = sweep.directory
        if not exists(directory / SETTINGS):
            if names(directory) <= {"tune"}:
                remove(directory)
            raise RunError(
                f"{directory} is gone, and is not made again; put it back and give the command "
                "again"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune from handling signals and from printing."""
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


class TrialRecorder(tune.Callback):
    """Writes the record of each trial as Tune reports it, and tells people.

    Args:
        sweep: what is swept.
        final: records of the trials that ended before.
        tell: receives a line for each event.
    """

    def __init__(self, sweep: Sweep, final: list[Record], tell: Tell):
        self._sweep, self._send = sweep, tell
        self._final = list(final)
        self._reports: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        self._idle_since: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own copy, which is not used: a sweep goes on from the records

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        record = self._begun(trial)
        self._reports[record.number].clear()  # if it begins again
        write_record(self._sweep.directory, record)
        self._tell(
            record, ", ".join(f"{key} {_short(value)}" for key, value in record.point.items())
        )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune has looked around; it is told if for a while no trial could begin.

        Raises:
            TuneError: the directory of the sweep is gone.
        """
        if not exists(self._sweep.directory / SETTINGS):
            raise TuneError(f"{self._sweep.directory} is gone, and is not made again")
        now = time.monotonic()
        if any(trial.status == Trial.RUNNING for trial in trials):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > PATIENCE:
            self._idle_since = math.inf  # once is enough
            self._send("no trial has begun: they wait until the cluster has room for one")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reports."""
        record = self._begun(trial)
        self._reports[record.number].append((result["trained"], result["score"]))
        if result["state"] == "running":
            self._tell(
                record, f"held-out {result['score']:.4f} with {members_text(result['members'])}"
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        record, last = self._begun(trial), trial.last_result
        figures = {name: last[name] for name in FIGURES}
        if figures["state"] == "running":
            figures |= {"state": "stopped", "note": "others were better by then"}
        self._close(
            Record(
                record.number,
                record.point,
                **figures,
                reports=self._reports[record.number],
                repeats=last.get("repeats"),
            )
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process of a trial has died too often, or made a mistake."""
        record = self._begun(trial)
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        self._close(Record(record.number, record.point, "failed", note=lines[-1]))

    def _begun(self, trial: Any) -> Record:
        point = dict(trial.config)
        return Record(point.pop(NUMBER), point)

    def _close(self, record: Record) -> None:
        write_record(self._sweep.directory, record)
        if record.is_final:
            self._final.append(record)
        best = best_of(self._final)
        standing = f"{len(self._final)} of {self._sweep.settings.trials}"
        if best is not None:
            standing += f", best: {best.name}, {best.score:.4f}"
        self._tell(record, f"{ending(record)} ({standing})")

    def _tell(self, record: Record, text: str) -> None:
        self._send(f"{record.name}: {text}")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
