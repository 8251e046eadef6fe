"""The HTML page about a run, from its figures, its events and its sample weights."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray

from bebert_ray.pipeline.layout import (
    Layout,
    is_member,
    member_directory,
    parse_directory,
    parse_name,
    weights_file,
)
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
from bebert_ray.reporting.robustness import draw_robustness, load_robustness
from bebert_ray.reporting.tables import SIZES, gain_cells, score_cells, without_columns
from bebert_ray.storage import Location, names, read

Curve = list[tuple[int, float]]
"""Training steps, and the loss at each."""

# Widths and heights of pictures, in half and in all of the page.
_HALF = {"width": 5.2, "height": 3.2}
_WHOLE = {"width": 10.6, "height": 3.0}

_LINES = 24  # members that have a line of their own where time and size are compared


@dataclass(frozen=True)
class Share:
    """Duration of the training and size of a model, or the sums of several."""

    name: str
    seconds: float
    bits: int


def page(results: Results, directory: Location) -> str:
    """An HTML page about a finished run, without links to other files.

    The same run gives the same page, byte for byte.

    Args:
        results: the figures.
        directory: the run directory, for its events and sample weights.

    Raises:
        UserError: events or weights cannot be read.
    """
    events = read_events(directory)
    weights, losses = read_weights(results, directory), loss_curves(events)
    robustness = load_robustness(results, directory)
    curves = "" if robustness is None else svg(draw_robustness, robustness, width=10.6, height=7.4)
    figures = {
        "curves": curves,
        "scores": svg(draw_scores, results, **_HALF),
        "weights": svg(draw_weights, weights, **_WHOLE) if weights else "",
        "losses": svg(draw_losses, losses, **_WHOLE) if losses else "",
        "pairs": "" if results.classes else svg(draw_pairs, results.predictions, **_HALF),
    }
    return render(
        "run.html",
        results=results,
        robustness=robustness,
        teacher=results.stages["teacher"],
        table=without_columns(score_cells(results), SIZES),
        gains=gain_cells(results),
        shares=shares(results),
        confusion=confusion(results),
        troubles=[event for event in events if event["kind"] in ("restart", "note")],
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True),
        **{name: Markup(text) for name, text in figures.items()},
    )


def shares(results: Results) -> list[Share]:
    """Time and size of each stage and member; only of all together if there are many members."""
    lines = [Share(model.name, model.seconds, model.bits) for model in results.stages.values()]
    members = [Share(model.name, model.seconds, model.bits) for model in results.members]
    together = Share(
        "all members",
        sum(member.seconds for member in members),
        results.bits,
    )
    return [*lines, *(members if len(members) <= _LINES else []), together]


def confusion(results: Results) -> list[list[int]]:
    """Counts of examples, [label][prediction of the ensemble]; empty for regression."""
    if results.classes is None:
        return []
    count = Counter(results.predictions)
    classes = range(len(results.classes))
    return [[count[label, prediction] for prediction in classes] for label in classes]


def read_weights(results: Results, directory: Location) -> dict[str, list[NDArray[np.float64]]]:
    """The sample weights of the ensemble's members; a member with a missing file is left out.

    Returns:
        By name of the member's directory, such as `000`: an array [n] for each round.
    """
    place = Layout(directory).weights
    there = names(place)
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    for part in filter(None, map(parse_directory, there)):
        if part.fold is None and part.round is not None:
            rounds[part.member].append(part.round)
    weights = {}
    for member in filter(None, (parse_name(member.name) for member in results.members)):
        number = member.member
        files = [weights_file(number, round=round) for round in sorted(rounds[number])]
        files.append(weights_file(number))
        if there.issuperset(files):
            weights[member_directory(number)] = [_load(place / file) for file in files]
    return weights


def loss_curves(events: Iterable[Event]) -> dict[str, list[Curve]]:
    """Steps and losses of each stage, and of all members as `members`: a curve for each fit.

    A stage may have several fits, whose losses differ: to hidden states first, then to logits.
    Of what was trained twice, after a restart or with other settings, the last training counts.
    """
    curves: defaultdict[str, list[Curve]] = defaultdict(list)
    odometers: defaultdict[str, Odometer] = defaultdict(Odometer)
    done: set[str] = set()
    for event in events:
        stage = event["stage"]
        if event["kind"] == "done" and event["round"] is None:
            done.add(stage)
        part = parse_name(stage)
        if event["kind"] != "progress" or (part is not None and part.fold is not None):
            continue
        if stage in done:
            done.remove(stage)
            curves[stage], odometers[stage] = [], Odometer()
        fits, odometer = curves[stage], odometers[stage]
        earlier = odometer.before
        step = odometer.advance(event)
        if not fits or odometer.before > earlier:
            fits.append([])
        curve = fits[-1]
        while curve and curve[-1][0] >= step:  # a fit that went on from its checkpoint
            curve.pop()
        curve.append((step, event["loss"]))
    panels: defaultdict[str, list[Curve]] = defaultdict(list)
    for stage, fits in curves.items():
        panels["members" if is_member(stage) else stage] += fits
    return dict(panels)


def _load(place: Location) -> NDArray[np.float64]:
    weight: NDArray[np.float64] = np.load(io.BytesIO(read(place)), allow_pickle=False)
    return weight
