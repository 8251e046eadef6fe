"""Whole runs side by side: of several schedules, or of several kinds of members.

The runs of a seed share the stages that they can. `jobs/compare.py` compares their results further.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console

from bebert_ray.cluster.resources import allot, connected
from bebert_ray.config import Config
from bebert_ray.nn.bert import load_model
from bebert_ray.nn.costs import Total, costs, total
from bebert_ray.pipeline.driver import results
from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.prepare import prepare
from bebert_ray.pipeline.results import Results
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.reporting.events import DRIVER, Event, read_events
from bebert_ray.run import execute
from bebert_ray.storage import Location, lock
from measure.comparison import Group, mean_rows, print_columns, print_rows

Load = Callable[..., Config]
Tell = Callable[[str], None]

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

BIT = ("binary.activations=elastic", "binary.attention=softmax", "binary.two_sets=true")
KINDS: dict[str, tuple[str, ...]] = {
    "1-1-8": ("bits=1-1-8",),
    "1-1-4": ("bits=1-1-4",),
    "1-1-2": ("bits=1-1-2",),
    "1-1-1-bibert": ("bits=1-1-1",),
    "1-1-1-bit": ("bits=1-1-1", *BIT),
    "1-1-1-bit-through-2": ("bits=1-1-1", *BIT, "binary.through=[1-1-2]"),
}


def train_run(config: Config, stages_only: bool = False) -> Results | None:
    """A run as `jobs/ensemble.py` does it, without a packed model; its log is beside the directory.

    Raises:
        UserError, RunError: as by `jobs/ensemble.py`.
    """
    prepared = prepare(config)
    directory = prepared.directory
    directory.local.parent.mkdir(parents=True, exist_ok=True)
    with (
        directory.local.with_suffix(".log").open("a") as log,
        connected(config.resources) as nodes,
        lock(directory),
    ):
        console = Console(file=log, width=120)
        run = execute(
            prepared,
            allot(prepared.config, nodes, shape=prepared.shape),
            console,
            stages_only=stages_only,
        )
        return None if stages_only else results(run)


def schedules(
    load: Load, chosen: list[str], seeds: list[int], repeat: int, output: Path, tell: Tell
) -> list[dict[str, Any]]:
    """Train the stages once a seed, and then the members under each schedule in turn.

    Args:
        load: the configuration, given overrides.
        chosen: names in `SCHEDULES`.
        seeds: of the runs.
        repeat: how often the members are trained under each schedule.
        output: directory for the runs. The stages are in `seed-S/stages` and are used again; each
            training of the members is in `seed-S/SCHEDULE-TURN` and is made anew.
        tell: told of each outcome.

    Returns:
        An outcome for each training of all members: `schedule`, `seed`, `turn`, `seconds` (from the
        start of the driver, when all stages are done, to the end of the last member), `outside`
        (fraction of the time from the first member's start to the last one's end in which none was
        in training), and the scores on dev of the `ensemble` and the `members`.

    Raises:
        UserError, RunError: as by `jobs/ensemble.py`.
    """
    for schedule in chosen:
        load(*SCHEDULES[schedule])  # refuse bad settings before the first run
    outcomes = []
    for seed in seeds:
        home = output.absolute() / f"seed-{seed}"
        stages = home / "stages"
        train_run(load(f"seed={seed}", *SEQUENTIAL, f"output={stages}"), stages_only=True)
        for turn in range(repeat):
            for schedule in chosen:
                run = home / f"{schedule}-{turn}"
                shutil.rmtree(run, ignore_errors=True)
                link_stages(stages, run)
                made = train_run(load(f"seed={seed}", *SCHEDULES[schedule], f"output={run}"))
                assert made is not None
                seconds, outside = times(read_events(Location.of(run)))
                outcomes.append(
                    {
                        "schedule": schedule,
                        "seed": seed,
                        "turn": turn,
                        "seconds": seconds,
                        "outside": outside,
                        "ensemble": made.ensemble,
                        "members": made.member_scores,
                    }
                )
                tell(
                    f"seed {seed}, {schedule}: {len(made.members)} members in {seconds:.0f} s, "
                    f"{outside:.1%} with none in training; ensemble {made.ensemble:.4f}"
                )
    return outcomes


def schedules_summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Median times and mean score of each schedule; median ratios of seconds; all outcomes.

    A ratio compares only trainings of the same seed and turn.
    """
    groups = _grouped(outcomes, "schedule")
    ratios = {
        f"{one}/{other}": [
            a["seconds"] / b["seconds"]
            for a in groups.get(one, [])
            for b in groups.get(other, [])
            if (a["seed"], a["turn"]) == (b["seed"], b["turn"])
        ]
        for one, other in RATIOS
    }
    return {
        "benchmark": "schedules",
        "ratios": {name: round(median(each), 3) for name, each in ratios.items() if each},
        "schedules": {
            schedule: {
                "seconds": round(median(each["seconds"] for each in group), 1),
                "outside": round(median(each["outside"] for each in group), 4),
                "ensemble": round(mean(each["ensemble"] for each in group), 4),
            }
            for schedule, group in groups.items()
        },
        "outcomes": outcomes,
    }


def print_schedules(outcomes: list[dict[str, Any]], console: Console) -> None:
    """Print median seconds, and the score of each seed and in the mean, by schedule."""
    figures = schedules_summary(outcomes)
    rows = [
        {
            "members": schedule,
            "seconds": row["seconds"],
            "none in training": f"{row['outside']:.1%}",
            **{f"dev, seed {each['seed']}": each["ensemble"] for each in group},
            "dev, mean": row["ensemble"],
        }
        for (schedule, group), row in zip(
            _grouped(outcomes, "schedule").items(), figures["schedules"].values(), strict=True
        )
    ]
    print_rows(rows, console)
    for name, ratio in figures["ratios"].items():
        console.print(f"seconds, {name}: {ratio:.2f} (median)")


def times(events: Sequence[Event]) -> tuple[float, float]:
    """`seconds` and `outside` of an outcome of `schedules`."""
    [began] = [event["time"] for event in events if event["stage"] == DRIVER]
    moves = [
        event for event in events if event["kind"] in ("start", "done") and event["stage"] != DRIVER
    ]
    in_training: set[str] = set()
    idle = 0.0
    for event, following in pairwise(moves):
        if event["kind"] == "start":
            in_training.add(event["stage"])
        else:
            in_training.discard(event["stage"])
        if not in_training:
            idle += following["time"] - event["time"]
    first, last = moves[0]["time"], moves[-1]["time"]
    return round(last - began, 1), idle / (last - first)


def kinds(
    load: Load, chosen: list[str], seeds: list[int], output: Path, tell: Tell
) -> dict[str, list[Results]]:
    """Train an ensemble of each kind and seed.

    Args:
        load: the configuration, given overrides.
        chosen: names in `KINDS`.
        seeds: of the runs.
        output: directory for the runs, `seed-S/KIND`; a run that is there goes on.
        tell: told of each outcome.

    Returns:
        The results of each kind, by seed.

    Raises:
        UserError, RunError: as by `jobs/ensemble.py`.
    """
    for kind in chosen:
        load(*KINDS[kind])  # refuse bad settings before the first run
    made: dict[str, list[Results]] = {kind: [] for kind in chosen}
    for seed in seeds:
        home = output.absolute() / f"seed-{seed}"
        for number, kind in enumerate(chosen):
            run = home / kind
            for earlier in chosen[:number] if not run.exists() else ():
                link_stages(home / earlier, run)
            figures = train_run(load(f"seed={seed}", *KINDS[kind], f"output={run}"))
            assert figures is not None
            made[kind].append(figures)
            members = " ".join(f"{score:.4f}" for score in figures.member_scores)
            tell(f"seed {seed}, {kind}: members {members}; ensemble {figures.ensemble:.4f}")
    return made


def kinds_summary(made: dict[str, list[Results]]) -> dict[str, Any]:
    """All outcomes, and the means over seeds by kind; scores on dev."""
    outcomes = [
        {
            "kind": kind,
            "seed": run.seed,
            "teacher": run.teacher,
            "start": run.start,
            "members": run.member_scores,
            "ensembles": [run.headline(scores) for scores in run.staged],
            "cost": asdict(_cost(run, run.members[0].name)),
            "teacher_cost": asdict(_cost(run, next(iter(run.stages)))),
            "seconds": run.seconds,
        }
        for kind, runs in made.items()
        for run in runs
    ]
    return {
        "benchmark": "kinds",
        "means": {
            kind: {
                "single": round(mean(mean(each["members"]) for each in group), 4),
                "ensembles": [
                    round(mean(scores), 4)
                    for scores in zip(*(each["ensembles"] for each in group), strict=False)
                ],
            }
            for kind, group in _grouped(outcomes, "kind").items()
        },
        "outcomes": outcomes,
    }


def print_kinds(made: dict[str, list[Results]], console: Console) -> None:
    """Print scores and sizes of each kind; means over seeds."""
    rows = mean_rows([Group(kind, runs) for kind, runs in made.items()])
    print_columns(rows, console, "means over seeds")


def _cost(run: Results, name: str) -> Total:
    """What a model costs on a sentence of the longest length."""
    place = Layout(Location.parse(run.run)).artifact(name)
    return total(costs(load_model(place.local), run.config["data"]["max_length"]))


def _grouped(outcomes: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome[key], []).append(outcome)
    return groups
