"""The figures of `bebert robustness`: as JSON and read back, as tables, and drawn."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.results import MEAN_MEMBER, Results
from bebert_ray.reporting.charts import LIGHT
from bebert_ray.reporting.tables import Cells, print_cells
from bebert_ray.storage import Location, fingerprint, read

VERSION = 1

Figures = dict[str, float]
"""The metrics of the task and, of a classification, nll, ece and selective."""
Curve = list[Figures]
"""Figures by strength, in the order of the strengths."""


@dataclass(frozen=True)
class SuiteFigures:
    """The figures of a suite.

    Attributes:
        name: of the suite.
        unit: what a strength is.
        strengths: rising, above 0.
        curves: of each model that the suite can disturb.
        areas: of each of them, the area under its curve of the primary metric from strength 0 on,
            divided by the greatest strength; of a file of examples, the score.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    curves: dict[str, Curve]
    areas: Figures


@dataclass(frozen=True)
class Robustness:
    """How much worse the models of a run become.

    Attributes:
        run: the run directory.
        of: stands for the results of the run as they were; see `sign`.
        task: of the run.
        metrics: of the task, the primary one first.
        dev: the split that was disturbed.
        examples: how many of its examples.
        seed: of the random choices.
        repeats: how often each disturbance was drawn.
        members: names of the members.
        ensemble: name of the ensemble.
        clean: figures of each model where nothing is disturbed, in order.
        suites: figures of each suite.
    """

    run: str
    of: str
    task: str
    metrics: tuple[str, ...]
    dev: str
    examples: int
    seed: int
    repeats: int
    members: tuple[str, ...]
    ensemble: str
    clean: dict[str, Figures]
    suites: list[SuiteFigures]

    @staticmethod
    def sign(results: Results) -> str:
        """What stands for results; others have another."""
        return fingerprint({k: v for k, v in results.summary().items() if k != "run"})

    @property
    def models(self) -> list[str]:
        """Names of the models in order, with the mean member before the ensemble."""
        names = list(self.clean)
        place = names.index(self.ensemble)
        return [*names[:place], MEAN_MEMBER, *names[place:]]

    def area(self, suite: SuiteFigures, name: str) -> float | None:
        """The area of a model under a suite; None if the suite cannot disturb it."""
        if name != MEAN_MEMBER:
            return suite.areas.get(name)
        return float(np.mean([suite.areas[member] for member in self.members]))

    def areas(self) -> Cells:
        """Heads and rows: of each model its clean score, and its area under each suite."""
        metric = self.metrics[0]

        def row(name: str) -> list[str]:
            known = self.members if name == MEAN_MEMBER else [name]
            clean = float(np.mean([self.clean[each][metric] for each in known]))
            return [name, *map(_cell, [clean, *(self.area(suite, name) for suite in self.suites)])]

        heads = ["model", "clean", *(suite.name for suite in self.suites)]
        return heads, [row(name) for name in self.models]

    def under_shift(self) -> Cells:
        """Heads and rows: the mean of each figure over the suites that disturb every model."""
        shared = [suite for suite in self.suites if suite.curves.keys() >= self.clean.keys()]
        names = list(next(iter(self.clean.values())))
        if not shared:
            return ["model"], []

        def row(model: str) -> list[str]:
            points = [point for suite in shared for point in suite.curves[model]]
            return [model, *(_cell(float(np.mean([p[name] for p in points]))) for name in names)]

        return ["model", *names], [row(model) for model in self.clean]

    def details(self, suite: SuiteFigures, figure: str) -> Cells:
        """Heads and rows: one figure of each model by strength."""
        heads = ["model", "0", *(f"{strength:g}" for strength in suite.strengths)]
        return heads, [
            [name, _cell(self.clean[name][figure]), *(_cell(point[figure]) for point in curve)]
            for name, curve in suite.curves.items()
        ]

    def summary(self) -> dict[str, Any]:
        """The figures that scripts read: areas by suite, then by model."""
        return {
            **{name: getattr(self, name) for name in ("run", "task", "examples", "seed")},
            "metric": self.metrics[0],
            "clean": {name: each[self.metrics[0]] for name, each in self.clean.items()},
            "areas": {suite.name: suite.areas for suite in self.suites},
        }

    def everything(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Robustness:
        """What `everything` has given.

        Raises:
            ValueError, KeyError, TypeError: it is of another version, or something is wrong.
        """
        given = dict(content)
        if given.pop("version") != VERSION:
            raise ValueError("its format is of another version of bebert_ray")
        suites = [
            SuiteFigures(**{**suite, "strengths": tuple(suite["strengths"])})
            for suite in given.pop("suites")
        ]
        for name in ("metrics", "members"):
            given[name] = tuple(given[name])
        return cls(**given, suites=suites)


def load_robustness(results: Results, directory: Location) -> Robustness | None:
    """What was measured of a run; None if nothing was, or of other results."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        found = Robustness.from_json(json.loads(read(Layout(directory).robustness)))
        return found if found.of == Robustness.sign(results) else None
    return None


def print_robustness(figures: Robustness, console: Console) -> None:
    """Print the areas, and the figures under shift."""
    metric = figures.metrics[0]
    title = (
        f"{metric} of {figures.examples} examples of {figures.dev}: clean, and the area under its "
        "curve by strength"
    )
    print_cells(figures.areas(), console, title)
    if len(figures.under_shift()[1]):
        print_cells(figures.under_shift(), console, "mean over suites and strengths")


def draw_robustness(figure: Figure, figures: Robustness) -> None:
    """Scores by strength, a panel for each suite."""
    suites = [suite for suite in figures.suites if len(suite.strengths) > 1] or figures.suites
    columns = min(3, len(suites))
    grid = figure.subplots(-(-len(suites) // columns), columns, squeeze=False, sharey=True)
    panels = list(grid.flat)
    metric = figures.metrics[0]
    for axes, suite in zip(panels, suites, strict=False):
        for name, curve in suite.curves.items():
            scores = [figures.clean[name][metric], *(point[metric] for point in curve)]
            axes.plot(range(len(scores)), scores, label=name, **_style(figures, name))
        marks = ["0", *(f"{strength:g}" for strength in suite.strengths)]
        axes.set(title=suite.name)
        axes.set_xlabel(suite.unit, fontsize=7)
        axes.set_xticks(range(len(marks)), marks)
    for axes in panels[len(suites) :]:
        axes.remove()
    for line in grid:
        line[0].set_ylabel(metric)
    handles, labels = panels[0].get_legend_handles_labels()
    first: dict[Any, Any] = {}  # one entry for all members
    for handle, label in zip(handles, labels, strict=True):
        first.setdefault("each member" if label in figures.members else label, handle)
    figure.legend(list(first.values()), list(first), loc="outside lower center", ncols=4)


def _style(figures: Robustness, name: str) -> dict[str, Any]:
    if name == figures.ensemble:
        return {"color": LIGHT["blue"], "linewidth": 2, "zorder": 3}
    if name in figures.members:
        return {"color": LIGHT["orange"], "linewidth": 0.8}
    others = [each for each in figures.clean if each not in (*figures.members, figures.ensemble)]
    style = ("-", "--", ":", "-.")[others.index(name) % 4]
    return {"color": LIGHT["muted"], "linewidth": 1, "linestyle": style}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
