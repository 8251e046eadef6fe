"""Where each step of a run stands, and the whole.

What a record says is believed here; whether an artifact is whole, and made from the present inputs,
is for the run itself to check.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from bebert_ray.config import Config
from bebert_ray.config.recipes import MODEL, kind_of
from bebert_ray.reporting.events import DRIVER, Event, Odometer, read_events
from bebert_ray.reporting.run_files import (
    Driver,
    Record,
    find_driver,
    read_config,
    read_record,
    read_results,
)
from bebert_ray.storage import Location

State = Literal[
    "done",
    "running",
    "stopped",  # begun, and nobody is at it
    "begun",  # and whether somebody is at it cannot be known
    "waiting",
    "not needed",  # boosting has ended before it
    "damaged record",
]


@dataclass(frozen=True)
class Row:
    """Where a step stands; None is not known, or not yet.

    Attributes:
        name: of the step, such as `teacher` or `member 000`.
        state: see `State`.
        round: of a member that trains in rounds, from 0.
        epoch: the one at work, from 1, of `epochs`.
        step: training steps done, of `steps`, in the present fit.
        loss: as last reported.
        held_out: primary metric on the selection split: the model's if it is done, or the latest.
        dev: primary metric on the main reported split, once it is done.
        error: weighted error that gave the say.
        alpha: a member's say.
        examples_per_second: as last reported.
        memory: the most that its process has held, in bytes.
        seconds: what it took, or has taken since it was last taken up.
        seen: seconds since it was last heard of.
        restarts: how many processes died over it.
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
    """Where a run stands.

    Attributes:
        run: the run directory.
        task: name of the task.
        bits: of a member.
        method: boosting or bagging.
        schedule: of the members.
        rounds: in which a member trains; 1 unless the schedule is pipelined.
        seed: of the run.
        driver: whether one is at work; unknown in an object store, which has no locks.
        holder: which process that is, and where.
        rows: one a step.
        seconds_left: a guess from the speed so far; None where that would be a guess at random.
        results: what is in `results.json`, once the run is finished.
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
    """Where a run stands. Changes nothing.

    Args:
        run: the run directory.

    Raises:
        UserError: it is no run, or cannot be read.
    """
    config = read_config(run)
    events = read_events(run)
    driver, holder = find_driver(run)
    places = {"data": run / "data"} | {name: run / path for name, path in _steps(config).items()}
    with ThreadPoolExecutor(16) as pool:  # an object store takes its time over each
        records = dict(zip(places, pool.map(read_record, places.values()), strict=True))
    examples = records.pop("data").examples
    opened = max((event["time"] for event in events if event["stage"] == DRIVER), default=0.0)
    by_step: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_step[event["stage"]].append(event)
    rows = [
        _row(name, record, by_step[name], driver, opened, _work(config, name, examples))
        for name, record in records.items()
    ]
    results = read_results(run, config)
    if results is not None:
        needed = {MODEL, *(model["name"] for model in results["models"])}
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


def _steps(config: Config) -> dict[str, str]:
    """The steps of a run by name, and where in it they are; see `ensemble.steps`."""
    steps = {stage.name: stage.name for stage in kind_of(config).stages}
    for member in range(config.ensemble.members):
        steps[f"member {member:03d}"] = f"members/{member:03d}"
        for fold in config.ensemble.judges:
            steps[f"member {member:03d} fold {fold}"] = f"members/{member:03d}-fold-{fold}"
    if config.export.remainder != "none":
        steps[MODEL] = MODEL
    return steps


_REPORTED = ("round", "epoch", "epochs", "step", "steps", "loss", "examples_per_second", "memory")


def _row(
    name: str, record: Record, events: list[Event], driver: Driver, opened: float, work: int
) -> Row:
    """Where a step stands.

    Args:
        name: the step.
        record: of its artifact.
        events: that tell of it, the oldest first.
        driver: whether one is at work.
        opened: when a driver last took the run up.
        work: training steps in all fits of the step.
    """
    now = time.time()
    state: State = record.state
    seconds, work_done = record.seconds, work if state == "done" else 0
    reports = [event for event in events if event["kind"] == "progress"]
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
    say = next((event for event in reversed(events) if event["kind"] == "boost"), {})
    held_out = next((e["score"] for e in reversed(reports) if e["score"] is not None), None)
    return Row(
        name,
        state,
        **{key: last.get(key) for key in _REPORTED},
        held_out=record.held_out if state == "done" else held_out,
        dev=record.dev if state == "done" else None,
        error=say.get("error"),
        alpha=say.get("alpha"),
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
        if event["kind"] in ("start", "progress"):
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
    epochs = section.epochs
    if section is not config.member or config.ensemble.strategy == "C":
        epochs += getattr(section, "hidden_epochs", 0)
    return int(epochs * math.ceil(examples / section.batch_size))


def _section(config: Config, name: str) -> Any:
    stages = {stage.name: stage.section for stage in kind_of(config).stages} | {MODEL: None}
    return stages.get(name, config.member)


def _seconds_left(config: Config, rows: list[Row]) -> float | None:
    """A guess: what is left goes as fast as its like did last, as many at once as now."""
    stages = {MODEL, *(stage.name for stage in kind_of(config).stages)}
    speed: dict[str, float] = {}
    left: dict[str, int] = {}
    for row in rows:
        kind = row.name if row.name in stages else "member"
        if row.examples_per_second:
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
