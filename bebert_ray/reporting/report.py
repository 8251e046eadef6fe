"""The report of a finished run: a picture, an HTML page, a table; also made anew from its files."""

from __future__ import annotations

import os
from dataclasses import replace

from rich.console import Console

from bebert_ray.errors import UserError
from bebert_ray.pipeline.layout import Layout
from bebert_ray.pipeline.results import Results, read_results, to_json
from bebert_ray.reporting.charts import draw_scores, png
from bebert_ray.reporting.html import page
from bebert_ray.reporting.robustness import Robustness, draw_robustness
from bebert_ray.reporting.tables import print_table
from bebert_ray.storage import Location, keep, write_atomic


def write_report(run: Location, console: Console) -> Results:
    """Print the table of a finished run, and write `scores.png` and `report.html` anew.

    In a directory of another user, which may be read alone, nothing is written.

    Needs `results.json`, `metrics.jsonl` and `weights/` of the run directory: neither data nor
    models, and neither torch nor Ray.

    Args:
        run: the run directory.
        console: where to print.

    Returns:
        The results that were read.

    Raises:
        UserError: there are no results, they cannot be read, or the report cannot be written.
    """
    results = load_results(run)
    if not run.is_local or os.access(run.local, os.W_OK):
        draw_report(results, run)
    else:
        console.print(f"{run} may not be written to: report.html and scores.png stay as they are")
    print_table(results, console)
    return results


def draw_report(results: Results, run: Location) -> None:
    """Write `scores.png` and `report.html` into the run directory.

    Raises:
        UserError: events or weights of the run cannot be read, or the files cannot be written.
    """
    layout = Layout(run)
    title = f"{results.task}, seed {results.seed}"
    write_atomic(layout.scores, png(draw_scores, results, title=title))
    keep(layout.report, page(results, run).encode())


def keep_robustness(figures: Robustness, run: Location) -> None:
    """Write what was measured of a run, its picture, and the report that shows both.

    Raises:
        UserError: the run is not finished, or the files cannot be written.
    """
    layout, results = Layout(run), load_results(run)
    write_atomic(layout.robustness, to_json(figures.everything(), indent=2))
    title = f"{results.task}, seed {results.seed}: {figures.examples} examples of {figures.dev}"
    write_atomic(
        layout.robustness_curves,
        png(draw_robustness, figures, title=title, width=9.6, height=7.2),
    )
    draw_report(results, run)


def load_results(run: Location) -> Results:
    """The results of a finished run, from its `results.json`.

    The directory may have been moved since: `Results.run` is where it is now.

    Raises:
        UserError: the file is missing, damaged, or has the format of another version.
    """
    place = Layout(run).results
    try:
        return replace(Results.from_json(read_results(run)), run=str(run))
    except FileNotFoundError as error:
        raise UserError(
            f"{place} does not exist: the run is not finished, or this is no run directory. "
            "`status` shows how far a run has come; to finish it, give its command again"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{place} cannot be used: {str(error)[:200]}. Give the command of the run again, with "
            "this version of bebert_ray: it writes the file anew and trains nothing again"
        ) from error
