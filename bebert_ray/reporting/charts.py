"""The charts of a run, drawn with matplotlib: as SVG in the colours of a page, or as PNG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bebert_ray.pipeline.results import Results

LIGHT = {
    "ink": "#1c2530",
    "muted": "#5d6b7a",
    "rule": "#d8dee5",
    "blue": "#2667c9",
    "orange": "#c7621b",
    "panel": "#f5f7f9",
    "paper": "#fefefe",
}
"""Colours by name; charts are drawn in these."""

DARK = {
    "ink": "#e3e9f0",
    "muted": "#98a6b5",
    "rule": "#38434f",
    "blue": "#6ea8fe",
    "orange": "#f0a35e",
    "panel": "#1d242c",
    "paper": "#14191f",
}
"""The same colours for a page in dark mode."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text, not outlines
}
_LABELS = 16  # names that fit below an axis
_WIDE = 0.8  # line width of curves that share a panel

Draw = Callable[..., None]
"""Draws its further arguments on the figure that is its first one."""


def svg(draw: Draw, *what: Any, width: float, height: float) -> str:
    """A chart as an SVG element, whose colours are CSS variables named as in `LIGHT`.

    Args:
        draw: one of the functions below.
        what: what it draws.
        width: in inches of 100 pixels; fonts have their nominal size at this width.
        height: in inches of 100 pixels.
    """
    picture = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": draw.__name__}):
        figure = _drawn(draw, *what, size=(width, height))
        FigureCanvasSVG(figure).print_svg(picture, metadata={"Date": None})
    text = picture.getvalue().decode()
    text = text[text.index("<svg") :]
    # Remove a style that applies to the whole page, the metadata, and ids that charts share.
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def png(draw: Draw, *what: Any, title: str, width: float = 6.4, height: float = 4.0) -> bytes:
    """A chart as the content of a PNG file; width and height are in inches of 100 pixels."""
    picture = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"figure.facecolor": LIGHT["paper"]}):
        figure = _drawn(draw, *what, size=(width, height))
        figure.suptitle(title)
        FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def draw_scores(figure: Figure, results: Results) -> None:
    """Scores of the ensembles of 1, 2, ... members, each member, the stages and the rivals."""
    axes = figure.add_subplot()
    count = range(1, len(results.members) + 1)
    others = (*results.stages.values(), *results.rivals.values())
    for stage, style in zip(others, cycle(("-", "--", ":", "-.")), strict=False):
        level = results.headline(stage.scores)
        axes.axhline(level, color=LIGHT["muted"], linestyle=style, linewidth=1, label=stage.name)
    members = [results.headline(member.scores) for member in results.members]
    axes.plot(count, members, "o", color=LIGHT["orange"], label="each binary member")
    ensemble = [results.headline(each) for each in results.staged]
    axes.plot(count, ensemble, "o-", color=LIGHT["blue"], label="ensemble so far")
    axes.set(
        xlabel="members",
        ylabel=results.headline_name,
        xlim=(0.5, len(members) + 0.5),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="best")


def draw_weights(figure: Figure, weights: Mapping[str, Sequence[NDArray[np.float64]]]) -> None:
    """Sample weights by member and round: their quantiles, and the effective sample size.

    Args:
        figure: where to draw.
        weights: by member, an array [n] for each round, summing to 1.
    """
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    columns = [weight for rounds in weights.values() for weight in rounds]
    names = ("whislo", "q1", "med", "q3", "whishi")
    boxes = [
        dict(zip(names, np.percentile(weight * len(weight), (0, 5, 50, 95, 100)), strict=True))
        for weight in columns
    ]
    place, line = range(len(columns)), {"color": LIGHT["blue"]}
    above.bxp(
        boxes,
        positions=place,
        showfliers=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": LIGHT["orange"]},
    )
    above.axhline(1, color=LIGHT["muted"], linewidth=1, linestyle=":")
    above.set(ylabel="weight, of the mean", ylim=(0, None))
    # (sum w)^2 / sum w^2, Kish's effective sample size
    effective = [100 / (len(weight) * np.square(weight).sum()) for weight in columns]
    below.bar(place, effective, color=LIGHT["blue"], width=0.5)
    below.set(ylabel="effective %", ylim=(0, 105), xlabel="member")
    starts = np.cumsum([0, *(len(rounds) for rounds in weights.values())])[:-1]
    step = -(-len(starts) // _LABELS)
    below.set_xticks(starts[::step], list(weights)[::step])


def draw_losses(
    figure: Figure, panels: Mapping[str, Sequence[Sequence[tuple[int, float]]]]
) -> None:
    """Training losses by step, a panel for each stage and one for the members.

    Args:
        figure: where to draw.
        panels: curves by the title of the panel; a curve holds pairs of step and loss.
    """
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, curves) in zip(row, panels.items(), strict=True):
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=LIGHT["blue"], linewidth=_WIDE)
        losses = [loss for curve in curves for _, loss in curve if math.isfinite(loss)]
        axes.set(title=name, xlabel="step", ylim=(0, 1.05 * max(losses, default=0.0) or 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    row[0].set(ylabel="loss")


def draw_pairs(figure: Figure, pairs: Sequence[tuple[float, float]]) -> None:
    """Predictions over labels, a point for each example (regression)."""
    axes = figure.add_subplot()
    labels, predictions = np.array(pairs).T
    ends = [min(labels.min(), predictions.min()), max(labels.max(), predictions.max())]
    axes.plot(ends, ends, color=LIGHT["orange"], linewidth=1, linestyle="--", zorder=3)
    axes.plot(labels, predictions, ".", color=LIGHT["blue"], alpha=0.5, markersize=4)
    axes.set(xlabel="label", ylabel="prediction of the ensemble")


def _drawn(draw: Draw, *what: Any, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure, *what)
    return figure
