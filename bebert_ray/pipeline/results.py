"""What a run ends with: figures, a table, a picture, one line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bebert_ray.storage import Location, write_atomic

if TYPE_CHECKING:
    from bebert_ray.cluster.resources import Allotments, Node

ROWS_ALIKE = 24  # so many steps of the same state a plan shows one by one

Scores = dict[str, dict[str, float]]
"""Metric values by split, then by metric: fractions, not percent."""


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: such as `teacher` or `member 000`.
        scores: its metrics on every split.
        bits: its size as it would be packed.
        seconds: what its training took.
        alpha: a member's say; None for a stage.
        error: the weighted error that gave the say, if it was measured.
    """

    name: str
    scores: Scores
    bits: int
    seconds: float
    alpha: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Packed:
    """The packed model of an ensemble, as it was loaded again.

    Attributes:
        remainder: how what is not binary is stored, `fp16` or `fp32`.
        bytes: of its `weights`, `scales` and `floats`, and of the whole `file`.
        scores: the ensemble's, by split.
        logit_difference: the largest between a logit of a member and that of its training.
    """

    remainder: str
    bytes: dict[str, int]
    scores: Scores
    logit_difference: float


@dataclass(frozen=True)
class Results:
    """All figures of a run.

    Attributes:
        run: the run directory.
        task: name of the task.
        metrics: its metrics, the primary one first.
        classes: names of its classes; None for regression.
        dev: the reported splits, the main one first.
        selection: `holdout` or `dev`: what every choice was made on.
        seed: of the run.
        stages: the models that the members come from, such as teacher, half and ternary.
        members: of the ensemble, in order.
        staged: metrics of the ensemble of the first 1, 2, ... members.
        predictions: label and prediction of the ensemble for every example of the main reported
            split: indices of classes, or scores.
        note: why there are fewer members than asked for, if so.
        packed: the packed model; None if none was asked for.
        config: the resolved configuration.
        versions: what the figures depend on besides.
    """

    run: str
    task: str
    metrics: tuple[str, ...]
    classes: tuple[str, ...] | None
    dev: tuple[str, ...]
    selection: str
    seed: int
    stages: dict[str, Model]
    members: list[Model]
    staged: list[Scores]
    predictions: list[tuple[float, float]]
    note: str
    packed: Packed | None
    config: dict[str, Any]
    versions: dict[str, str]

    @property
    def scores(self) -> Scores:
        """Metrics of the whole ensemble."""
        return self.staged[-1]

    def headline(self, scores: Scores) -> float:
        """The primary metric on the main reported split."""
        return scores[self.dev[0]][self.metrics[0]]

    def summary(self) -> dict[str, Any]:
        """The figures that scripts want: the last line that a job prints."""
        return {
            "run": self.run,
            "task": self.task,
            "metric": self.metrics[0],
            **{name: self.headline(stage.scores) for name, stage in self.stages.items()},
            "members": [self.headline(member.scores) for member in self.members],
            "alphas": [member.alpha for member in self.members],
            "ensemble": self.headline(self.scores),
            "seconds": {name: round(stage.seconds, 1) for name, stage in self.stages.items()}
            | {"members": [round(member.seconds, 1) for member in self.members]},
            "selection": self.selection,
            "seed": self.seed,
        }

    def everything(self) -> dict[str, Any]:
        """The summary with all splits, metrics, sizes, the configuration and the versions."""

        def facts(model: Model) -> dict[str, Any]:
            return {name: value for name, value in vars(model).items() if value is not None}

        return self.summary() | {
            "note": self.note,
            "models": [facts(model) for model in (*self.stages.values(), *self.members)],
            "staged": self.staged,
            "packed": self.packed and vars(self.packed),
            "config": self.config,
            "versions": self.versions,
        }


def print_plan(
    steps: dict[str, str],
    allotments: Allotments,
    nodes: list[Node],
    directory: Location,
    console: Console,
) -> None:
    """What will run, what is done already, and on what."""
    console.print(f"run directory: {directory}")
    console.print(f"machines: {'; '.join(map(str, nodes))}")
    workers = allotments.stage_workers
    console.print(
        f"needed: {f'{workers} times ' if workers > 1 else ''}{allotments.stage} a stage; "
        f"{allotments.member} a member, "
        f"{allotments.in_flight} at a time"
    )
    table = Table(title="plan", title_justify="left")
    table.add_column("step")
    table.add_column("state")
    for state, group in groupby(steps.items(), key=itemgetter(1)):
        names = [name for name, _ in group]
        if len(names) > ROWS_ALIKE:
            names = [names[0], f"… {len(names) - 2} more", names[-1]]
        for name in names:
            table.add_row(name, state)
    console.print(table)


def print_table(results: Results, console: Console) -> None:
    """Scores and sizes of every model on the way, and of the ensemble."""
    teacher = results.stages["teacher"]
    table = Table(title=f"{results.task}, seed {results.seed}", title_justify="left")
    table.add_column("model", no_wrap=True)
    for split in results.dev:
        for metric in results.metrics:
            table.add_column(f"{split} {metric}".replace("_", " "), justify="right")
    if results.selection == "holdout":
        table.add_column(f"held-out {results.metrics[0]}", justify="right")
    table.add_column("alpha", justify="right")
    table.add_column("MB", justify="right")
    table.add_column("smaller", justify="right")
    table.add_column("seconds", justify="right")

    def row(name: str, scores: Scores, bits: int, seconds: float, alpha: float | None) -> None:
        cells = [f"{scores[split][m]:.4f}" for split in results.dev for m in results.metrics]
        if results.selection == "holdout":
            cells.append(f"{scores['selection'][results.metrics[0]]:.4f}")
        table.add_row(
            name,
            *cells,
            "" if alpha is None else f"{alpha:.3f}",
            f"{bits / 8e6:.2f}",
            f"{teacher.bits / bits:.1f}x",
            f"{seconds:.0f}",
        )

    for model in results.stages.values():
        row(model.name, model.scores, model.bits, model.seconds, None)
    table.add_section()
    for model in results.members:
        row(model.name, model.scores, model.bits, model.seconds, model.alpha)
    table.add_section()
    members = results.members
    row(
        f"ensemble of {len(members)}",
        results.scores,
        sum(member.bits for member in members),
        sum(model.seconds for model in (*results.stages.values(), *members)),
        None,
    )
    console.print(table)
    if results.packed is not None:
        _print_packed(results, results.packed, console)
    if results.selection == "dev":
        console.print("selection: dev. Choices were made on the split that is reported")
    if results.note:
        console.print(results.note)


def _print_packed(results: Results, packed: Packed, console: Console) -> None:
    size = {name: f"{count / 1e6:.2f}" for name, count in packed.bytes.items()}
    metric = f"{results.dev[0]} {results.metrics[0]}".replace("_", " ")
    console.print(
        f"packed model: {results.run}/model, {size['file']} MB on disk (binary weights "
        f"{size['weights']}, scales {size['scales']}, {packed.remainder} floats {size['floats']})"
    )
    console.print(
        f"loaded again: {metric} {results.headline(packed.scores):.4f}, no logit of a member "
        f"differs by more than {packed.logit_difference:.2g}"
    )


def draw(results: Results, path: Location) -> None:
    """A picture of the scores: ensembles of 1, 2, ... members, each member, the models before."""
    from bebert_ray.reporting.charts import draw_scores, png

    write_atomic(path, png(draw_scores, results, title=f"{results.task}, seed {results.seed}"))


def to_json(value: dict[str, Any], indent: int | None = None) -> str:
    """Strict JSON, keys in the order given."""
    return json.dumps(value, indent=indent, allow_nan=False)
