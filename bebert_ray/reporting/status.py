"""The status of a run and of each of its steps.

It relies on the records of the artifacts. Whether an artifact is complete and made from the present
inputs, only the run itself checks.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from bebert_ray.config import Config
from bebert_ray.config.recipes import DISTILLED, LONGER, kind_of
from bebert_ray.pipeline.layout import AUGMENTED, DATA, MODEL, Layout, member_name
from bebert_ray.reporting.events import DRIVER, Event, Odometer, read_events
from bebert_ray.reporting.run_files import (
    Driver,
    Record,
    find_driver,
    find_results,
    read_config,
    read_record,
)
from bebert_ray.storage import Location

State = Literal[
    "done",
    "running",
    "stopped",  # begun, and no process works on it
    "begun",  # whether a process works on it is unknown
    "waiting",
    "not needed",  # boosting ended before it
    "damaged record",
]


@dataclass(frozen=True)
class Row:
    """The status of a step; None where a value is not known, or not yet.

    Attributes:
        name: of the step, such as `teacher` or `member 000`.
        state: see `State`.
        round: of a member that trains in rounds, from 0.
        epoch: the present one, from 1, of `epochs`.
        step: training steps done, of `steps`, in the present fit.
        loss: the last one reported.
        held_out: primary metric on the selection split, of the model or the latest evaluation.
        dev: primary metric on the main reported split, once it is done.
        error: the weighted error that alpha follows from.
        alpha: weight of a member in the vote.
        examples_per_second: the last rate reported.
        memory: peak memory of its process, in bytes.
        seconds: duration of the training, or time since the last start.
        seen: seconds since the last event.
        restarts: number of processes that died.
        work: training steps in all of its fits; 0 if the number of examples is not known.
        work_done: those done.
    """

    name: str
    state: State
    round: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    held_out: float | None = None
    dev: float | None = None
    error: float | None = None
    alpha: float | None = None
    examples_per_second: float | None = None
    memory: int | None = None
    seconds: float | None = None
    seen: float | None = None
    restarts: int = 0
    work: int = 0
    work_done: int = 0


@dataclass(frozen=True)
class Status:
    """The status of a run.

    Attributes:
        run: the run directory.
        task: name of the task.
        bits: of a member.
        method: boosting, bagging or uniform.
        schedule: of the members.
        rounds: in which a member trains; 1 unless the schedule is pipelined.
        seed: of the run.
        driver: whether one works on the run; unknown in an object store, which has no locks.
        holder: the process of the driver and its machine.
        rows: one for each step.
        seconds_left: estimate from the speed so far; None if it cannot be estimated.
        results: content of `results.json`, once the run is finished.
    """

    run: str
    task: str
    bits: str
    method: str
    schedule: str
    rounds: int
    seed: int
    driver: Driver
    holder: str
    rows: list[Row]
    seconds_left: float | None
    results: dict[str, Any] | None


def look(run: Location) -> Status:
    """The status of a run. Changes nothing.

    Args:
        run: the run directory.

    Raises:
        UserError: the directory is no run, or cannot be read.
    """
    config = read_config(run)
    events = read_events(run)
    driver, holder = find_driver(run)
    places = {name: Layout(run).artifact(name) for name in (DATA, *_steps(config))}
    with ThreadPoolExecutor(16) as pool:  # an object store needs up to a second for each
        records = dict(zip(places, pool.map(read_record, places.values()), strict=True))
    examples = records.pop(DATA).examples
    opened = max((event["time"] for event in events if event["stage"] == DRIVER), default=0.0)
    by_step: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_step[event["stage"]].append(event)
    rows = [
        _row(name, record, by_step[name], driver, opened, _work(config, name, examples))
        for name, record in records.items()
    ]
    results = find_results(run, config)
    if results is not None:
        needed = {AUGMENTED, MODEL, *(model["name"] for model in results["models"])}
        rows = [
            replace(row, state="not needed", work=0)
            if row.state == "waiting" and row.name not in needed
            else row
            for row in rows
        ]
    return Status(
        run=str(run),
        task=config.task,
        bits=config.bits,
        method=config.ensemble.method,
        schedule=config.ensemble.schedule,
        rounds=config.rounds,
        seed=config.seed,
        driver=driver,
        holder=holder,
        rows=rows,
        seconds_left=_seconds_left(config, rows) if examples and driver == "at work" else None,
        results=results,
    )


def _steps(config: Config) -> list[str]:
    """Names of the steps whose rows are shown, in order."""
    kind = kind_of(config)
    steps = [AUGMENTED] if config.data.augment.copies else []
    steps += [stage.name for stage in kind.stages]
    for member in range(config.ensemble.members):
        steps += [member_name(member, fold) for fold in (None, *config.ensemble.fold_numbers)]
    steps += [stage.name for stage in kind.rivals]
    return steps if config.export.remainder == "none" else [*steps, MODEL]


_REPORTED = ("round", "epoch", "epochs", "step", "steps", "loss", "examples_per_second", "memory")


def _row(
    name: str, record: Record, events: list[Event], driver: Driver, opened: float, work: int
) -> Row:
    """The status of a step.

    Args:
        name: of the step.
        record: of its artifact.
        events: of the step, the oldest first.
        driver: whether one works on the run.
        opened: when a driver last began to work on it.
        work: training steps in all fits of the step.
    """
    now = time.time()
    state: State = record.state
    seconds, work_done = record.seconds, work if state == "done" else 0
    reports = [event for event in events if event["kind"] in ("progress", "parts")]
    if unfinished := _unfinished(events, state, opened):
        present = [event["time"] for event in unfinished if event["time"] >= opened]
        at_work = bool(present) and driver == "at work"
        state = "running" if at_work else "begun" if driver == "unknown" else "stopped"
        seconds = now - present[0] if at_work else None
        odometer = Odometer()
        for event in unfinished:
            if event["kind"] == "progress":
                work_done = min(work, odometer.advance(event))
    last: Event = reports[-1] if reports else {}
    boost = next((event for event in reversed(events) if event["kind"] == "boost"), {})
    held_out = next((e["score"] for e in reversed(reports) if e.get("score") is not None), None)
    return Row(
        name,
        state,
        **{key: last.get(key) for key in _REPORTED},
        held_out=record.held_out if state == "done" else held_out,
        dev=record.dev if state == "done" else None,
        error=boost.get("error"),
        alpha=boost.get("alpha"),
        seconds=seconds,
        seen=max(0.0, now - events[-1]["time"]) if events else None,
        restarts=sum(event["kind"] == "restart" for event in events),
        work=work,
        work_done=work_done,
    )


def _unfinished(events: list[Event], state: State, opened: float) -> list[Event]:
    """The signs that a step was begun, and has not ended since.

    Only events are compared, which have the driver's clock: that of the disk may be another. A
    driver that was killed between the artifact and its `done` event is followed by one that finds
    the artifact, and does not begin the step.
    """
    signs: list[Event] = []
    for event in events:
        if event["kind"] in ("start", "progress", "parts"):
            signs.append(event)
        elif event["kind"] == "done" and state != "waiting":
            signs.clear()
    if state == "done" and signs and signs[-1]["time"] < opened:
        return []
    return signs


def _work(config: Config, name: str, examples: int) -> int:
    """Training steps in all fits of a step."""
    section = _section(config, name)
    if section is None:
        return 0
    strategy = "B" if name == DISTILLED else config.ensemble.strategy
    fits = [section.epochs]
    if (section is not config.member or strategy == "C") and not getattr(section, "joint", False):
        fits.append(getattr(section, "hidden_epochs", 0))
    steps = [epochs * math.ceil(examples / section.batch_size) for epochs in fits]
    if (most := config.training.max_steps) is not None:
        steps = [min(each, most) for each in steps]
    return sum(steps) * (config.ensemble.members if name == LONGER else 1)


def _section(config: Config, name: str) -> Any:
    kind = kind_of(config)
    by_name = {stage.name: stage.section for stage in (*kind.stages, *kind.rivals)}
    return (by_name | {AUGMENTED: None, MODEL: None}).get(name, config.member)


def _seconds_left(config: Config, rows: list[Row]) -> float | None:
    """An estimate: steps of a kind go on at its last speed, and as many at a time as now."""
    stages = {AUGMENTED, MODEL, *(stage.name for stage in kind_of(config).stages)}
    speed: dict[str, float] = {}
    left: dict[str, int] = {}
    for row in rows:
        kind = row.name if row.name in stages else "member"
        if row.examples_per_second and row.work:
            speed[kind] = row.examples_per_second / _section(config, row.name).batch_size
        left[kind] = left.get(kind, 0) + row.work - row.work_done
    members = sum(row.state == "running" and row.name not in stages for row in rows)
    seconds = 0.0
    for kind, steps in left.items():
        together = members if kind == "member" else 1
        if steps and not (together and kind in speed):
            return None
        seconds += steps / speed[kind] / together if steps else 0.0
    return seconds
