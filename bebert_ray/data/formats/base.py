"""What each file format can do: name columns, cut a file into spans, read, and write rows again.

Rows are written in the format in which they were read, with columns added; so none of their own
columns changes its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from bebert_ray.errors import UserError
from bebert_ray.storage import Location

MAX_BYTES = 64 * 2**20
"""A span ends with the row that brings it to this many bytes, however few its rows are."""

Added = dict[str, pa.Array]
"""New columns by name, one value a row."""


@dataclass(frozen=True)
class Span:
    """Successive rows of a file.

    Attributes:
        start: Where they begin: bytes before them in text, rows before them in Parquet.
        stop: Where they end, in the same unit.
        rows: Number of rows, the bad ones included.
        first: Number of the first row, as `Rows.numbers` counts.
        alone: Lines at the beginning in which a quoted CSV field cannot span lines.
    """

    start: int
    stop: int
    rows: int
    first: int
    alone: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of a span, or of a whole file.

    Attributes:
        numbers: The number of each row, from 1: the line where it starts in text, the row in
            Parquet.
        values: The wanted columns, one list for each. Values may be of any type; bytes stand for
            text that is not UTF-8.
        data: The rows in the form that `Format.write` takes.
        bad: Number and reason of each row that cannot be read. These are in none of the others.
    """

    numbers: Sequence[int]
    values: tuple[list[Any], ...]
    data: Any
    bad: list[tuple[int, str]]


@dataclass(frozen=True)
class Format:
    """How files of one kind are read and written.

    Attributes:
        columns: The names of a file's columns. Raises a `UserError` if one of the given text
            columns cannot hold text.
        cut: The spans of a file, in order, of at most so many rows each.
        read: The rows of a span, or of the whole file for None, with the wanted columns. A row
            that already has a column to be added is bad, where `columns` cannot tell.
        write: A file with the rows at these positions, and columns added.
        unit: What `Rows.numbers` counts, ``line`` or ``row``.
        empty_is_missing: Whether an empty text is how the format spells a missing one.
    """

    columns: Callable[[Location, Sequence[str]], list[str]]
    cut: Callable[[Location, int], Iterator[Span]]
    read: Callable[[Location, Span | None, Sequence[str], Sequence[str]], Rows]
    write: Callable[[Any, Sequence[int], Added], bytes]
    unit: str = "line"
    empty_is_missing: bool = False


def find_columns(there: Sequence[str], wanted: Iterable[str], where: str) -> None:
    """Check that each wanted column is there, once.

    Raises:
        UserError: A wanted column is missing, or several columns have its name.

    Examples:
        >>> find_columns(["id", "text", "id"], ["text"], "a.csv")
        >>> find_columns(["id", "text", "id"], ["id"], "a.csv")
        Traceback (most recent call last):
        bebert_ray.errors.UserError: a.csv: 2 columns are named 'id'; rename all but one
    """
    for name in wanted:
        count = there.count(name)
        if count == 0:
            raise UserError(
                f"{where}: there is no column {shown(name)}; the columns are: {listed(there)}"
            )
        if count > 1:
            raise UserError(f"{where}: {count} columns are named {shown(name)}; rename all but one")


def listed(names: Sequence[str], limit: int = 120) -> str:
    """Names joined by commas, cut after about ``limit`` characters.

    Examples:
        >>> listed(["text", "label"])
        'text, label'
        >>> listed([f"column_{i}" for i in range(5000)], limit=30)
        'column_0, column_1, column_2, … (4,997 more)'
    """
    total, count = 0, 0
    for name in names:
        total += len(name[:limit]) + 2
        if count and total > limit:
            break
        count += 1
    text = ", ".join(name if len(name) <= limit else name[:limit] + "…" for name in names[:count])
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if count == len(names) else f"{text}, … ({len(names) - count:,} more)"


def shown(value: Any, limit: int = 40) -> str:
    """A value as Python spells it, cut after ``limit`` characters.

    Examples:
        >>> shown("good"), shown("x" * 100, limit=8)
        ("'good'", "'xxxxxxx…")
    """
    if isinstance(value, str | bytes):
        value = value[: limit + 1]  # never the repr of megabytes
    elif isinstance(value, list | tuple):
        value = list(islice(value, limit))
    elif isinstance(value, int) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    text = repr(value)
    return text if len(text) <= limit + 2 else text[:limit] + "…"
