"""Tables for the console: plan, scores, status; and the cells of the scores for the page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from operator import itemgetter

from rich.console import Console
from rich.table import Table

from bebert_ray.pipeline.resources import Allotments, Node
from bebert_ray.pipeline.results import Packed, Results
from bebert_ray.reporting.status import Row, Status
from bebert_ray.storage import Location

Cells = tuple[list[str], list[list[str]]]
"""The heads of the columns, and the cells of each row."""

ROWS_ALIKE = 24
"""The most steps of one state that a plan shows line by line."""

_FORMATS: dict[str, Callable[[float], str]] = {
    "error": "{:.3f}".format,
    "alpha": "{:.3f}".format,
    "flipped": "{:.2%}".format,
    "MB": "{:.2f}".format,
    "smaller": "{:.1f}x".format,
    "seconds": "{:.0f}".format,
}
SIZES = ("MB", "smaller", "seconds")
"""Columns that the page shows as bars, in a table of their own."""

_PAGE_ONLY = ("train ", "error")  # the console's table would be too wide with these


def score_cells(results: Results) -> Cells:
    """The score table as text. The first column names the model; see `Results.table`."""
    rows = results.table()
    heads = list(rows[0])

    def cell(head: str, value: float | str | None) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        return _FORMATS.get(head, "{:.4f}".format)(value)

    return heads, [[cell(head, row[head]) for head in heads] for row in rows]


def gain_cells(results: Results) -> Cells:
    """What the ensemble is above each baseline, and whether that is more than chance, as text.

    The columns: the baseline, its score, the difference, and the p-value of the paired test (see
    `pipeline.diagnostics`), which regressions of earlier versions do not have.
    """
    heads = ["ensemble less", results.headline_name, "difference", "p"]
    rows = []
    for name, baseline in results.baselines.items():
        score, p = baseline["score"], baseline["p"]
        assert score is not None
        gain = f"{results.ensemble - score:+.4f}"
        rows.append([name, f"{score:.4f}", gain, "" if p is None else f"{p:.2g}"])
    tested = any(row[-1] for row in rows)
    return (heads, rows) if tested else without_columns((heads, rows), ["p"])


def without_columns(table: Cells, prefixes: Iterable[str]) -> Cells:
    """The table without the columns whose head starts with one of the prefixes.

    >>> without_columns((["model", "train f1"], [["half", "0.9"]]), ["train "])
    (['model'], [['half']])
    """
    heads, rows = table
    kept = [i for i, head in enumerate(heads) if not head.startswith(tuple(prefixes))]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]


def print_table(results: Results, console: Console) -> None:
    """Print scores and sizes of every model and of the ensemble, with notes beneath."""
    scores = without_columns(score_cells(results), _PAGE_ONLY)
    # A rule before the members, one before the ensemble, and one before its rivals.
    stages, members = len(results.stages), len(results.members)
    rules = (stages, stages + members, stages + members + 1)
    print_cells(scores, console, f"{results.task}, seed {results.seed}", rules)
    if results.packed is not None:
        _print_packed(results, results.packed, console)
    if results.baselines:
        print_cells(gain_cells(results), console, "what the ensemble gains")
    if results.diagnostics:
        figures = results.diagnostics
        classes = "disagreement" in figures  # and no regression
        differ = f"{figures['disagreement']:.1%} of predictions differ, " if classes else ""
        console.print(
            f"pairs of members: {differ}errors correlate by {figures['error_correlation']:.2f}"
        )
    if results.selection == "dev":
        console.print("selection: dev. Choices were made on the split that is reported")
    if results.note:
        console.print(results.note)


def print_cells(
    cells: Cells, console: Console, title: str | None = None, rules: Collection[int] = ()
) -> None:
    """Print a table; the first column is never broken.

    Args:
        cells: the heads and rows.
        console: where to.
        title: stands above the table.
        rules: numbers of rows, from 1, after which a rule is drawn.
    """
    heads, rows = cells
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", no_wrap=not number)
    for number, row in enumerate(rows, start=1):
        table.add_row(*row, end_section=number in rules)
    console.print(table)


def _print_packed(results: Results, packed: Packed, console: Console) -> None:
    size = {name: f"{count / 1e6:.2f}" for name, count in packed.bytes.items()}
    metric = results.headline_name
    console.print(
        f"packed model: {results.model}, {size['file']} MB on disk (binary weights "
        f"{size['weights']}, scales {size['scales']}, {packed.remainder} floats {size['floats']})"
    )
    console.print(f"loaded again: {metric} {results.headline(packed.scores):.4f}")
    if packed.cascade:
        kept = packed.cascade["curve"][0]
        console.print(
            f"cascade, off unless asked for: {kept['members'][results.dev[0]]:.2f} members a text, "
            f"{metric} {results.headline(kept['scores']):.4f}"
        )
    if packed.logit_difference:
        console.print(
            f"loaded again, a logit of a member differs by {packed.logit_difference:.2g} from the "
            "one that was scored"
        )


def print_plan(
    steps: dict[str, str],
    allotments: Allotments,
    nodes: list[Node],
    directory: Location,
    console: Console,
) -> None:
    """Print the state of each step before a run, and the resources that it will use.

    Args:
        steps: state by name of the step, as `driver.make_plan` gives them.
        allotments: resources of each worker.
        nodes: the machines.
        directory: the run directory.
        console: where to print.
    """
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


def print_status(status: Status, console: Console) -> None:
    """Print the settings of a run, the state of each step, the progress and the results."""
    rounds = f" in rounds 0 to {status.rounds - 1}" if status.rounds > 1 else ""
    console.print(f"run directory: {status.run}")
    console.print(
        f"{status.task}, bits {status.bits}, {status.method}, {status.schedule}{rounds}, "
        f"seed {status.seed}"
    )
    driver = f"driver: {status.driver}"
    if status.driver == "at work":
        driver += f" ({status.holder})"
    elif status.driver == "not at work" and status.results is None:
        driver += "; give the command of the run again to go on"
    console.print(driver)
    lines = [_cells(row) for row in status.rows]
    shown = [column for column in lines[0] if any(line[column] for line in lines)]
    # Without frames, and so narrow enough for a log.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in shown:
        table.add_column(column, justify="left" if column in ("step", "state") else "right")
    for line in lines:
        table.add_row(*(line[column] for column in shown))
    console.print(table)
    work, done = sum(row.work for row in status.rows), sum(row.work_done for row in status.rows)
    if work:
        left = f"; about {_duration(status.seconds_left)} left" if status.seconds_left else ""
        console.print(f"training steps: {done} of {work}, {done / work:.0%}{left}")
    if status.results is not None:
        results = status.results
        console.print(
            f"ensemble of {len(results['members'])}: {results['metric']} "
            f"{results['ensemble']:.4f} (teacher {results['teacher']:.4f})"
        )
        if results["note"]:
            console.print(results["note"])


def _cells(row: Row) -> dict[str, str]:
    """The cells of a row of the status table, by column."""

    def number(value: float | None, format: str) -> str:
        return "" if value is None else f"{value:{format}}"

    return {
        "step": row.name,
        "state": row.state,
        "round": number(row.round, "d"),
        "epoch": "" if row.epoch is None else f"{row.epoch}/{row.epochs}",
        "at step": "" if row.step is None else f"{row.step}/{row.steps}",
        "loss": number(row.loss, ".4f"),
        "held-out": number(row.held_out, ".4f"),
        "dev": number(row.dev, ".4f"),
        "error": number(row.error, ".3f"),
        "alpha": number(row.alpha, ".3f"),
        "ex/s": number(row.examples_per_second, ".0f"),
        "GB": number(row.memory and row.memory / 1e9, ".1f"),
        "secs": number(row.seconds, ".0f"),
        "seen": "" if row.seen is None else f"{_duration(row.seen)} ago",
        "died": str(row.restarts or ""),
    }


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
