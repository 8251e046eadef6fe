"""Score files: from a request to output files and figures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

from bebert_ray.cluster.resources import connected
from bebert_ray.config import ResourcesConfig
from bebert_ray.errors import RunError, UserError
from bebert_ray.reporting.progress import LINE_EVERY
from bebert_ray.scoring.classifier import Card, check_tokens, read_card
from bebert_ray.scoring.parts import (
    BAD_ROWS,
    Part,
    abandon,
    check_columns,
    check_output,
    check_same,
    find_sources,
    open_output,
    without_empty,
)
from bebert_ray.scoring.score import Job
from bebert_ray.scoring.stream import scored
from bebert_ray.storage import Location, lock, names, read, sweep

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Request:
    """What is to be scored.

    Attributes:
        model: Path or URI of the model's directory.
        input: Paths or URIs of files and directories.
        output: Path or URI of a directory.
        text_columns: Those to score; None for those that the model was trained on.
        prefix: Of the names of the columns that are added.
        rows_per_file: The most rows of an output file.
        batch_size: Texts in a forward pass.
        workers: Number of processes; None for one a GPU, or one a CPU.
        cascade: Whether to ask a member only where those before it are unsure.
    """

    model: str
    input: list[str]
    output: str
    text_columns: list[str] | None = None
    prefix: str = ""
    rows_per_file: Positive = 5000
    batch_size: Positive = 64
    workers: Positive | None = None
    cascade: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was scored.

    Attributes:
        card: What the model's configuration tells.
        output: The directory with the output files.
        parts: All parts, in order.
        left: Those that were not done before this command.
        bad: How many rows of all parts are bad.
        seconds: Time that the parts that were left took, the start of processes included.
    """

    card: Card
    output: Location
    parts: list[Part]
    left: list[Part]
    bad: int
    seconds: float

    def figures(self) -> dict[str, Any]:
        """The figures as JSON, for scripts."""
        rows, new = count_rows(self.parts), count_rows(self.left)
        return {
            "output": str(self.output),
            "rows": rows,
            "scored": rows - self.bad,
            "bad": self.bad,
            "files": len(self.parts),
            "files_before": len(self.parts) - len(self.left),
            "seconds": round(self.seconds, 1),
            "rows_per_second": round(new / self.seconds, 1) if new else None,
        }


def predict(request: Request, progress: Console, *, here: bool = False) -> Outcome:
    """Score what is not scored yet, and look whether any row is; see `score`.

    Raises:
        RunError: Every row is bad.
    """
    outcome = score(request, progress, here=here)
    if outcome.bad == count_rows(outcome.parts):
        lists = outcome.output / BAD_ROWS
        raise RunError(
            f"all {outcome.bad:,} rows are bad; the reasons are in {lists}. The first is: "
            f"{_reason(lists)}"
        )
    return outcome


def score(request: Request, progress: Console, *, here: bool = False) -> Outcome:
    """Score what is not scored yet.

    Args:
        request: What is to be scored.
        progress: Where progress is printed.
        here: On this machine of the cluster alone; no other one has the input.

    Raises:
        UserError: Something in the input is wrong.
        RunError: Scoring failed.
    """
    model, output = Location.parse(request.model), Location.parse(request.output).rooted()
    card = read_card(model)
    if request.cascade and not card.has_cascade:
        raise UserError(f"--cascade: {model} has none; it takes two members and classes")
    text_columns = tuple(request.text_columns or card.text_columns)
    if len(text_columns) not in (1, 2):
        raise UserError(
            "--text-columns: name the column with the texts, or the two of a pair (the model names "
            f"{', '.join(card.text_columns) or 'none'})"
        )
    check_tokens(model, pairs=len(text_columns) == 2)
    sources, empty = without_empty(find_sources(request.input, output))
    if not sources:
        raise UserError(f"--input {empty[0].location}: is empty")
    for source in empty:
        progress.print(f"{source.location}: is empty, and left out")
    check_columns(sources, text_columns, card.names(request.prefix))
    check_output(output)
    command = {
        "model": card.digest,
        "text columns": text_columns,
        "prefix": request.prefix,
        "rows per file": request.rows_per_file,
    } | ({"cascade": True} if request.cascade else {})
    inputs = {str(each.location): (each.size, each.modified) for each in sources}
    size, cascade = request.batch_size, request.cascade
    job = Job(model, card, output, text_columns, request.prefix, size, inputs, cascade)
    with lock(output):
        sweep(output)
        parts = open_output(output, command, sources, request.rows_per_file)
        there = names(output)
        left = [part for part in parts if part.name not in there]
        progress.print(
            f"{len(sources)} input files, {count_rows(parts):,} rows; {len(parts)} output files, "
            f"{len(left)} to do"
        )
        seconds = 0.0
        found: dict[str, int] = {}
        if left:
            try:
                with connected(ResourcesConfig()):
                    seconds, found = _score(job, left, request.workers, progress, here)
            except UserError:
                abandon(output)
                raise
        bad = _check_complete(output, parts, found)
        if left:
            for source in sources:
                check_same(source)
    return Outcome(card, output, parts, left, bad, seconds)


def _check_complete(output: Location, parts: list[Part], found: dict[str, int]) -> int:
    """Count the output files and the bad rows that are listed, before success is told.

    Args:
        output: The output directory.
        parts: All parts.
        found: How many bad rows each part had that was scored now, by name.

    Returns:
        How many rows are listed as bad.

    Raises:
        RunError: An output file or a list is missing.
    """
    there = names(output)
    lost = [part.name for part in parts if part.name not in there]
    listed, bad = names(output / BAD_ROWS), 0
    for part in parts:
        name = part.bad_rows.removeprefix(f"{BAD_ROWS}/")
        count = read(output / part.bad_rows).count(b"\n") if name in listed else 0
        if count < found.get(part.name, 0):
            lost.append(part.bad_rows)
        bad += count
    if lost:
        raise RunError(
            f"{len(lost)} of the files that were written are not in {output} ({lost[0]} for one): "
            "they were moved or deleted meanwhile. Give the same command again"
        )
    return bad


def _reason(lists: Location) -> str:
    """The first reason that is in the lists of bad rows."""
    first = min(names(lists))
    reason: str = json.loads(read(lists / first).splitlines()[0])["reason"]
    return reason[:120]


def count_rows(parts: list[Part]) -> int:
    """How many rows there are in parts, the bad ones included."""
    return sum(part.span.rows for part in parts)


def print_figures(figures: dict[str, Any], console: Console) -> None:
    """Show what `Outcome.figures` returns."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("rows", "scored", "bad", "files", "files_before", "seconds", "rows_per_second"):
        value = figures[name]
        table.add_row(name.replace("_", " "), "" if value is None else f"{value:,}")
    console.print(table)


def _score(
    job: Job, parts: list[Part], workers: int | None, progress: Console, here: bool
) -> tuple[float, dict[str, int]]:
    """Score parts and print progress; returns the seconds, and how many rows of each are bad."""
    start = shown = time.monotonic()
    done, rows, found = 0, count_rows(parts), {}
    for part, bad in scored(job, parts, workers, here):
        found[part.name] = bad
        done += part.span.rows
        now = time.monotonic()
        if now - shown > LINE_EVERY or done == rows:
            shown, speed = now, done / (now - start)
            rest = (rows - done) / speed
            progress.print(f"{done:,} of {rows:,} rows  {speed:,.0f} rows/s  {rest:.0f} s left")
    return time.monotonic() - start, found
