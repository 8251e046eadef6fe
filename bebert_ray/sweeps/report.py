"""What a sweep ends with: tables, a page with pictures, one line of JSON."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import matplotlib
import optuna.visualization.matplotlib as draw
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from bebert_ray.config import to_yaml
from bebert_ray.reporting.render import render
from bebert_ray.sweeps.best import Outcome
from bebert_ray.sweeps.records import SCORE, SCORE_AND_BITS, study_of

Rows = list[list[str]]


def trial_rows(outcome: Outcome) -> tuple[list[str], Rows]:
    """Heads and cells of the table of trials."""
    keys = [dimension.key for dimension in outcome.sweep.space]
    heads = ["trial", "state", *keys, "members", "MB", "s", "held-out", "swept"]
    rows = []
    for record in outcome.records:
        swept = outcome.swept.get(record.number)
        rows.append(
            [
                f"{record.number:03d}" + (" best" if record is outcome.best else ""),
                record.state if record.repeats is None else f"as {record.repeats:03d}",
                *(_cell(record.point[key]) for key in keys),
                str(record.members),
                f"{record.bits / 8e6:.2f}",
                f"{record.seconds:.0f}",
                "" if record.score is None else f"{record.score:.4f}",
                "" if swept is None else f"{swept.score:.4f}",
            ]
        )
    return heads, rows


def ensemble_rows(outcome: Outcome) -> tuple[list[str], Rows]:
    """Heads and cells of the table of ensembles that were compared."""
    first = outcome.candidates[0]
    heads = ["ensemble", "members", "MB", f"held-out {outcome.metric}"]
    heads += [
        f"{split} {name}" for split, metrics in outcome.dev[first.name].items() for name in metrics
    ]
    rows = []
    for each in outcome.candidates:
        members = Counter(record.number for record, _ in each.members)
        trials = ", ".join(f"{count} of {number:03d}" for number, count in sorted(members.items()))
        figures = outcome.dev[each.name].values()
        rows.append(
            [
                each.name + (" (winner)" if each is outcome.winner else ""),
                trials,
                f"{each.bits / 8e6:.2f}",
                f"{each.held_out:.4f}",
                *(f"{value:.4f}" for metrics in figures for value in metrics.values()),
            ]
        )
    return heads, rows


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The tables."""
    for title, (heads, rows) in (
        ("trials", trial_rows(outcome)),
        ("ensembles", ensemble_rows(outcome)),
    ):
        table = Table(title=title, title_justify="left")
        for position, head in enumerate(heads):
            # There may be many: a key takes a line for each of its words, and where room is short,
            # names are broken and figures are not.
            table.add_column(
                re.sub(r"[._]", "\n", head),
                justify="right" if position > 1 else "left",
                overflow="fold",
                min_width=max(len(word) for row in rows for word in row[position].split() or [""]),
            )
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if outcome.sweep.settings.objective == "score-and-bits":
        front = ", ".join(
            f"{each.name} ({each.score:.4f}, {each.bits / 8e6:.2f} MB)" for each in outcome.front
        )
        console.print(f"no trial is better in both score and size than: {front}")


def summary(outcome: Outcome) -> dict[str, Any]:
    """The figures that scripts want: the last line that the job prints."""
    sweep, best = outcome.sweep, outcome.best
    main = next(iter(outcome.dev[outcome.winner.name]))
    return {
        "sweep": str(sweep.directory),
        "task": sweep.config.task,
        "metric": outcome.metric,
        "trials": dict(Counter(record.state for record in outcome.records)),
        "best": {"trial": best.number, "held_out": best.score, "point": best.point},
        "ensembles": {
            each.name: {
                "held_out": each.held_out,
                "dev": outcome.dev[each.name][main][outcome.metric],
                "members": len(each.members),
                "bits": each.bits,
            }
            for each in outcome.candidates
        },
        "winner": outcome.winner.name,
        "front": [record.number for record in outcome.front],
        "seed": sweep.config.seed,
    }


def everything(outcome: Outcome) -> dict[str, Any]:
    """The summary with all records, alphas, metrics and settings."""
    return summary(outcome) | {
        "records": [vars(record) for record in outcome.records],
        "swept": {
            f"{number:03d}": {"score": found.score, "alphas": found.alphas.tolist()}
            for number, found in outcome.swept.items()
        },
        "candidates": {
            each.name: {
                "members": [f"{trial.name}, {member.name}" for trial, member in each.members],
                "alphas": each.alphas,
                "dev": outcome.dev[each.name],
            }
            for each in outcome.candidates
        },
        "settings": outcome.sweep.to_dict(),
    }


def page(outcome: Outcome) -> str:
    """The report as one HTML page that needs nothing else."""
    return render(
        "sweep.html",
        outcome=outcome,
        states=Counter(record.state for record in outcome.records),
        tables={"Ensembles": ensemble_rows(outcome), "Trials": trial_rows(outcome)},
        pictures=pictures(outcome),
        config=to_yaml(outcome.sweep.trial(outcome.best.number, outcome.best.point)),
    )


def pictures(outcome: Outcome) -> dict[str, str]:
    """PNG pictures in base64 by title: optuna's own, as far as there is something to show."""
    sweep, metric = outcome.sweep, f"held-out {outcome.metric}"
    records = [record for record in outcome.records if record.repeats is None]
    study, done = (
        study_of(sweep, records, SCORE),
        [each for each in records if each.state == "done"],
    )
    made = {
        "Scores as the search went on": lambda: draw.plot_optimization_history(
            study, target_name=metric
        ),
        "Scores while ensembles grew": lambda: draw.plot_intermediate_values(study),
        "Scores and sizes": lambda: draw.plot_pareto_front(
            study_of(sweep, done, SCORE_AND_BITS), target_names=[metric, "bits"]
        ),
    }
    if len({record.score for record in done}) > 1:
        made |= {
            "What mattered": lambda: draw.plot_param_importances(study, target_name=metric),
            "Settings and scores": lambda: draw.plot_parallel_coordinate(study, target_name=metric),
        }
    return {title: _png(plot) for title, plot in made.items()}


def _png(plot: Callable[[], Any]) -> str:
    # optuna sets a style for the whole process, and calls its own functions experimental.
    with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = plot().figure
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
    return base64.b64encode(picture.getvalue()).decode()


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
