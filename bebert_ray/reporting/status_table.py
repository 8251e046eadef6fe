"""A status for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bebert_ray.reporting.status import Row, Status


def print_status(status: Status, console: Console) -> None:
    """Print what a run is, how far each step and the whole have come, and the results."""
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
    """What a line of the table shows, by column."""

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
