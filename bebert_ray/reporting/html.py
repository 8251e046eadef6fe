"""What a page shows of a run, from its figures, its events and its weights."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray

from bebert_ray.pipeline.results import Results
from bebert_ray.reporting.charts import (
    draw_losses,
    draw_pairs,
    draw_scores,
    draw_weights,
    svg,
)
from bebert_ray.reporting.events import Event, Odometer, read_events
from bebert_ray.reporting.render import render
from bebert_ray.storage import Location, names, read

Curve = list[tuple[int, float]]
"""Training steps, and the loss at each."""

# Widths and heights of pictures, in half and in all of the page.
_HALF = {"width": 5.2, "height": 3.2}
_WHOLE = {"width": 10.6, "height": 3.0}

_LINES = 24  # members that have a line of their own where time and size are compared


@dataclass(frozen=True)
class Share:
    """A line of the comparison of time and size; `bits` of several models is their sum."""

    name: str
    seconds: float
    bits: int


def page(results: Results, directory: Location) -> str:
    """An HTML page about a finished run, which needs nothing but itself.

    The same run has the same page, to the byte.

    Args:
        results: the figures.
        directory: of the run: its events and weights are read.

    Raises:
        UserError: these cannot be read.
    """
    events = read_events(directory)
    weights, losses = read_weights(results, directory), loss_curves(events)
    figures = {
        "scores": svg(draw_scores, results, **_HALF),
        "weights": svg(draw_weights, weights, **_WHOLE) if weights else "",
        "losses": svg(draw_losses, losses, **_WHOLE) if losses else "",
        "pairs": "" if results.classes else svg(draw_pairs, results.predictions, **_HALF),
    }
    return render(
        "run.html",
        results=results,
        teacher=results.stages["teacher"],
        seconds=sum(model.seconds for model in (*results.stages.values(), *results.members)),
        shares=shares(results),
        confusion=confusion(results),
        troubles=[event for event in events if event["kind"] in ("restart", "note")],
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True),
        **{name: Markup(text) for name, text in figures.items()},
    )


def shares(results: Results) -> list[Share]:
    """Time and size of every model, in order; of many members together."""
    lines = [Share(model.name, model.seconds, model.bits) for model in results.stages.values()]
    members = [Share(model.name, model.seconds, model.bits) for model in results.members]
    together = Share(
        "all members",
        sum(member.seconds for member in members),
        sum(member.bits for member in members),
    )
    return [*lines, *(members if len(members) <= _LINES else []), together]


def confusion(results: Results) -> list[list[int]]:
    """Examples by class, in rows, and prediction of the ensemble; empty for regression."""
    if results.classes is None:
        return []
    count = Counter(results.predictions)
    classes = range(len(results.classes))
    return [[count[label, prediction] for prediction in classes] for label in classes]


def read_weights(results: Results, directory: Location) -> dict[str, list[NDArray[np.float64]]]:
    """What the ensemble's members trained with: by number, [n] a round; where it is there."""
    there = names(directory / "weights")
    weights = {}
    for member in results.members:
        number = member.name.removeprefix("member ")
        earlier = [name for name in there if name.startswith(f"{number}-round-")]
        files = [*sorted(earlier, key=_round), f"{number}.npy"]
        if there.issuperset(files):
            weights[number] = [_load(directory / "weights" / file) for file in files]
    return weights


def loss_curves(events: Iterable[Event]) -> dict[str, list[Curve]]:
    """Steps and losses: a curve a stage, and as `members` a curve a member.

    Of what was trained twice, since a process had died or a setting was changed, the second time.
    """
    curves: defaultdict[str, Curve] = defaultdict(list)
    odometers: defaultdict[str, Odometer] = defaultdict(Odometer)
    done: set[str] = set()
    for event in events:
        stage = event["stage"]
        if event["kind"] == "done" and event["round"] is None:
            done.add(stage)
        if event["kind"] != "progress" or " fold " in stage:
            continue
        if stage in done:
            done.remove(stage)
            curves[stage], odometers[stage] = [], Odometer()
        curve, step = curves[stage], odometers[stage].advance(event)
        while curve and curve[-1][0] >= step:
            curve.pop()
        curve.append((step, event["loss"]))
    panels: defaultdict[str, list[Curve]] = defaultdict(list)
    for stage, curve in curves.items():
        panels["members" if stage.startswith("member ") else stage].append(curve)
    return dict(panels)


def _round(name: str) -> int:
    return int(name.removesuffix(".npy").rpartition("-")[2])


def _load(place: Location) -> NDArray[np.float64]:
    weight: NDArray[np.float64] = np.load(io.BytesIO(read(place)), allow_pickle=False)
    return weight
