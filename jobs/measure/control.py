"""What the driver costs: members whose training takes no time, through the real pool."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from rich.console import Console
from rich.table import Table

from bebert_ray.cluster.resources import allot, connected, live_nodes
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.pipeline.driver import Run, results
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.events import DRIVER, read_events
from bebert_ray.run import execute
from bebert_ray.storage import Artifact, commit
from bebert_ray.training.fit import Progress
from bebert_ray.training.work import LOGITS, Logits
from measure.tiny import tiny_run

CPUS = 4  # of Ray's, whatever the machine has: so many members at once, the others wait
EXAMPLES = 100
SKILL = 0.7  # of the members: the share of labels that they get right


class IdleWorker:
    """Stands in for `cluster.worker.Worker`: reports and leaves what it would, but trains nothing.

    Args:
        arguments: those of a `Worker`; only the events' receiver is used, the last but one of the
            positional ones.
    """

    def __init__(self, *arguments: Any, **_: Any):
        self._report: Callable[[dict[str, Any]], None] = arguments[-2]

    def run(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> tuple[Artifact, Logits]:
        """Leave the artifact of a step."""
        here = {"node": socket.gethostname(), "pid": os.getpid(), "log": ""}
        self._report({"kind": "start", "stage": step.job, **here})
        progress = Progress(1, 1, 1, 1, 0.0, 0.0, 0.0, 0, SKILL, step.round_shown)
        self._report({"kind": "progress", "stage": step.job, **asdict(progress)})
        return leave(step, splits)


def leave(step: Step, splits: dict[str, dict[str, np.ndarray]]) -> tuple[Artifact, Logits]:
    """Leave an artifact with made-up logits of two classes where the step says."""
    rng = np.random.default_rng([step.member or 0, step.round])
    logits = {name: _guess(arrays["labels"], rng) for name, arrays in splits.items()}
    facts = {"scores": {name: {"accuracy": SKILL} for name in splits}, "bits": 0, "seconds": 0.0}

    def write(draft: Path) -> Mapping[str, Any]:
        safetensors.numpy.save_file(logits, draft / LOGITS)
        return facts

    return commit(step.path, step.stage, step.inputs, write), logits


def _guess(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    right = rng.random(len(labels)) < SKILL
    return np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]


def control(members: list[int], rounds: int, output: Path) -> dict[str, Any]:
    """What a pipelined run costs its driver, by the number of members.

    Args:
        members: numbers of them, in rising order.
        rounds: that each trains in, at least 2.
        output: new directory for the runs, and for the picture `control.png`.

    Returns:
        A row for each number of members: `driver_seconds` are CPU seconds of the driver's process,
        from the start of the workers to the results; `wall_seconds` go from the start of the first
        member, when other workers may still be loading, to the end of the last. `growth` is the
        exponent e of driver_seconds ~ members^e between the last two rows: 1 is linear.
    """
    settings = tiny_run(output / "input", EXAMPLES)
    settings += [f"member.epochs={rounds}", "ensemble.schedule=pipelined"]
    settings += ["export.remainder=none"]
    with connected(ResourcesConfig(num_cpus=CPUS)):
        _measure(settings, 1, rounds, output / "warm-up")
        rows = [_measure(settings, number, rounds, output / f"{number:04d}") for number in members]
    _draw(rows, output / "control.png")
    return {
        "benchmark": "control",
        "rounds": rounds,
        "at_once": CPUS,
        "examples": EXAMPLES,
        "rows": rows,
        "growth": _growth(rows[-2:]),
        "picture": str(output / "control.png"),
    }


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """A table of the rows that `control` gives."""
    table = Table()
    for name in ("members", "driver, CPU s", "ms a member-round", "wall, s", "ms a member-round"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def _measure(settings: list[str], members: int, rounds: int, output: Path) -> dict[str, Any]:
    overrides = [f"output={output}", f"ensemble.members={members}"]
    prepared = prepare(load_config(None, [*settings, *overrides]))
    splits = open_run(prepared)
    _leave_stages(Run(prepared, splits), {name: part.to_arrays() for name, part in splits.items()})
    allotments = allot(prepared.config, live_nodes())
    began = time.process_time()
    with (output / "messages.txt").open("w") as messages:
        console = Console(file=messages, width=120)
        results(execute(prepared, allotments, console, splits=splits, worker=IdleWorker))
    driver = time.process_time() - began
    events = [event for event in read_events(prepared.directory) if event["stage"] != DRIVER]
    wall = events[-1]["time"] - events[0]["time"]
    return {
        "members": members,
        "driver_seconds": round(driver, 3),
        "driver_ms_per_member_round": round(1e3 * driver / (members * rounds), 1),
        "wall_seconds": round(wall, 1),
        "wall_ms_per_member_round": round(1e3 * wall / (members * rounds), 1),
    }


def _leave_stages(run: Run, arrays: dict[str, dict[str, np.ndarray]]) -> None:
    """Have the stages before the members done."""
    [step] = run.start()
    while step.member is None:
        step, *_ = run.advance(step, *leave(step, arrays))


def _growth(rows: list[dict[str, Any]]) -> float | None:
    if len(rows) < 2:
        return None
    few, many = rows
    ratio = many["driver_seconds"] / few["driver_seconds"]
    return round(math.log(ratio) / math.log(many["members"] / few["members"]), 3)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    members = [row["members"] for row in rows]
    axes.plot(members, [row["driver_ms_per_member_round"] for row in rows], "o-")
    axes.set(
        xlabel="members",
        ylabel="driver's CPU ms a member and round",
        title=f"members that train nothing, {CPUS} at once",
        xscale="log",
        xticks=members,
        xticklabels=members,
    )
    axes.set_ylim(bottom=0)
    axes.minorticks_off()
    FigureCanvasAgg(figure).print_png(path)
