"""The same members under each schedule, side by side: how long they take, and how good they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from bebert_ray.config import Config
from bebert_ray.pipeline.results import Results
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.reporting.events import DRIVER, Event, read_events
from bebert_ray.storage import Location
from measure.runs import NOT_PACKED, train_run

SEQUENTIAL = ("ensemble.method=boosting", "ensemble.schedule=sequential", "ensemble.rounds=null")
SCHEDULES: dict[str, tuple[str, ...]] = {
    "sequential": (*SEQUENTIAL, "resources.member.cpu=1"),
    "sequential-all-cpus": (*SEQUENTIAL, "resources.member.cpu=null"),
    "pipelined": (
        "ensemble.method=boosting",
        "ensemble.schedule=pipelined",
        "resources.member.cpu=1",
    ),
    "parallel": (
        "ensemble.method=bagging",
        "ensemble.schedule=parallel",
        "ensemble.rounds=null",
        "resources.member.cpu=1",
    ),
}
RATIOS = (
    ("pipelined", "sequential"),
    ("parallel", "sequential"),
    ("pipelined", "sequential-all-cpus"),
)


@dataclass(frozen=True)
class Outcome:
    """What one training of all members came to.

    Attributes:
        schedule: one of `SCHEDULES`.
        seed: of the run.
        turn: number of the repetition.
        seconds: from the start of the driver, which finds all stages done, to the last member's
            end.
        outside: between the first member's start and the last one's end, the part of the time in
            which none was at work.
        ensemble: the primary metric on dev.
        members: the members' own.
    """

    schedule: str
    seed: int
    turn: int
    seconds: float
    outside: float
    ensemble: float
    members: list[float]

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, {self.schedule}: {len(self.members)} members in "
            f"{self.seconds:.0f} s, {self.outside:.1%} with none at work; "
            f"ensemble {self.ensemble:.4f}"
        )


def schedules(
    load: Callable[..., Config],
    chosen: list[str],
    seeds: list[int],
    repeat: int,
    output: Path,
    tell: Callable[[str], None],
) -> list[Outcome]:
    """Train the stages once a seed, and then the members under each schedule in turn.

    Args:
        load: the configuration, given overrides.
        chosen: names in `SCHEDULES`.
        seeds: of the runs.
        repeat: how often the members are trained under each schedule.
        output: directory for the runs: the stages are in `seed-S/stages`, where they stay for the
            next time, each training of the members is in `seed-S/SCHEDULE-TURN`, made anew.
        tell: told of each outcome.

    Raises:
        UserError, RunError: as by `jobs/ensemble.py`.
    """
    for schedule in chosen:
        load(*SCHEDULES[schedule])  # before hours are spent on those before it
    outcomes = []
    for seed in seeds:
        home = output.absolute() / f"seed-{seed}"
        stages = home / "stages"
        train_run(
            load(f"seed={seed}", *SEQUENTIAL, NOT_PACKED, f"output={stages}"), stages_only=True
        )
        for turn in range(repeat):
            for schedule in chosen:
                overrides = SCHEDULES[schedule]
                run = home / f"{schedule}-{turn}"
                shutil.rmtree(run, ignore_errors=True)
                link_stages(stages, run)
                figures = train_run(load(f"seed={seed}", *overrides, NOT_PACKED, f"output={run}"))
                assert figures is not None
                outcomes.append(_outcome(figures, schedule, turn))
                tell(str(outcomes[-1]))
    return outcomes


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """By schedule: median times and the mean score; median ratios of seconds; all outcomes.

    Only members of the same seed and turn, which ran side by side, are set in a ratio.
    """
    by_schedule = {
        schedule: [outcome for outcome in outcomes if outcome.schedule == schedule]
        for schedule in dict.fromkeys(outcome.schedule for outcome in outcomes)
    }
    figures = {
        schedule: {
            "seconds": round(median(outcome.seconds for outcome in group), 1),
            "outside": round(median(outcome.outside for outcome in group), 4),
            "ensemble": round(mean(outcome.ensemble for outcome in group), 4),
        }
        for schedule, group in by_schedule.items()
    }
    return {
        "benchmark": "schedules",
        "ratios": {
            f"{one}/{other}": round(
                median(
                    a.seconds / b.seconds
                    for a in by_schedule[one]
                    for b in by_schedule[other]
                    if (a.seed, a.turn) == (b.seed, b.turn)
                ),
                3,
            )
            for one, other in RATIOS
            if one in by_schedule and other in by_schedule
        },
        "schedules": figures,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def print_summary(outcomes: list[Outcome], console: Console) -> None:
    """Median seconds, and the score for each seed and in the mean, by schedule."""
    figures = summary(outcomes)
    scores = {(each.schedule, each.seed): each.ensemble for each in outcomes}
    seeds = sorted({seed for _, seed in scores})
    table = Table()
    columns = ("seconds", "none at work", *(f"dev, seed {seed}" for seed in seeds), "dev, mean")
    table.add_column("members", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    for schedule, row in figures["schedules"].items():
        table.add_row(
            schedule,
            f"{row['seconds']:.0f}",
            f"{row['outside']:.1%}",
            *(f"{scores[schedule, seed]:.4f}" for seed in seeds),
            f"{row['ensemble']:.4f}",
        )
    console.print(table)
    for name, ratio in figures["ratios"].items():
        console.print(f"seconds, {name}: {ratio:.2f} (median)")


def _outcome(figures: Results, schedule: str, turn: int) -> Outcome:
    events = read_events(Location.of(Path(figures.run)))
    seconds, outside = _times(events)
    return Outcome(
        schedule=schedule,
        seed=figures.seed,
        turn=turn,
        seconds=seconds,
        outside=outside,
        ensemble=figures.headline(figures.scores),
        members=[figures.headline(member.scores) for member in figures.members],
    )


def _times(events: list[Event]) -> tuple[float, float]:
    """`seconds` and `outside` of an `Outcome`, by when the driver heard of what."""
    [began] = [event["time"] for event in events if event["stage"] == DRIVER]
    moves = [
        event for event in events if event["kind"] in ("start", "done") and event["stage"] != DRIVER
    ]
    at_work: set[str] = set()
    idle = 0.0
    for event, following in pairwise(moves):
        if event["kind"] == "start":
            at_work.add(event["stage"])
        else:
            at_work.discard(event["stage"])
        if not at_work:
            idle += following["time"] - event["time"]
    first, last = moves[0]["time"], moves[-1]["time"]
    return round(last - began, 1), idle / (last - first)
