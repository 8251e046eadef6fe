"""A chart of runs: score over size, and which models no other one beats in both."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from statistics import mean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from measure.comparison import Group, ensemble_sizes, figures


def draw_pareto(groups: Sequence[Group]) -> bytes:
    """A PNG: score over size of the stages and of the ensembles of 1, 2, 4, ... members.

    The points that no other one beats in both score and size are ringed.
    """
    first = groups[0].runs[0]
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes = figure.add_subplot()
    points = list(_stage_points(groups))
    axes.plot(*zip(*points, strict=True), "x", color="gray", label="stages")
    for group in groups:
        curve = _ensemble_points(group)
        axes.plot(*zip(*curve, strict=True), "o-", markersize=4, label=group.name[:60])
        points += curve
    front = pareto_front(points)
    axes.plot(*zip(*front, strict=True), "o", mfc="none", mec="black", ms=10, label="Pareto front")
    metric = first.headline_name
    axes.set(xlabel="MB, counted", ylabel=metric, xscale="log", title=first.task)
    axes.legend(fontsize=8)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (size, score) that no other one beats, by size.

    >>> pareto_front([(1, 0.7), (2, 0.6), (3, 0.9)])
    [(1, 0.7), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for size, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((size, score))
    return front


def _stage_points(groups: Sequence[Group]) -> Iterator[tuple[float, float]]:
    for group in groups:
        for name, stage in group.runs[0].stages.items():
            scores = [run.headline(run.stages[name].scores) for run in group.runs]
            yield stage.bits / 8e6, mean(scores)


def _ensemble_points(group: Group) -> list[tuple[float, float]]:
    points = []
    for size in ensemble_sizes([group]):
        bits = mean(sum(member.bits for member in run.members[:size]) for run in group.runs)
        scores = [figures(run, [size])[f"ensemble of {size}"] for run in group.runs]
        points.append((bits / 8e6, mean(scores)))
    return points
