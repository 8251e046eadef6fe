"""What a format of files has to do: cut a file into spans, read one of them, write its rows again.

Rows go out in the format they came in, with columns added, so that none of theirs changes its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bebert_ray.storage import Location

MAX_BYTES = 64 * 2**20
"""A span ends, however few its rows are, with the row that brings it to so many bytes."""

Added = dict[str, pa.Array]
"""New columns by name, a value a row."""


@dataclass(frozen=True)
class Span:
    """Successive rows of a file.

    Attributes:
        start: where they begin: the number of bytes before them in text, of rows in Parquet.
        stop: where they end, likewise.
        rows: how many rows there are.
        first: number of the first, as `Rows.numbers` counts.
    """

    start: int
    stop: int
    rows: int
    first: int


@dataclass(frozen=True)
class Rows:
    """The rows of a span.

    Attributes:
        numbers: of each row, the number that people find it by: in text the line where it starts,
            in Parquet the row, both from 1.
        texts: values of the text columns, a list a column. Not all need be text.
        data: the rows as `Format.write` takes them.
        bad: number and reason of those that cannot be read. They are in none of the others.
    """

    numbers: Sequence[int]
    texts: tuple[list[Any], ...]
    data: Any
    bad: list[tuple[int, str]]


@dataclass(frozen=True)
class Format:
    """How files of one kind are read and written.

    Attributes:
        columns: the names of a file's columns, by which a wrong one is told before any work. Raises
            a `UserError` if one of the given text columns cannot hold text.
        cut: the spans of a file, one after another, of at most so many rows each.
        read: the rows of a span, with the given text columns. A row that has one of the columns to
            be added is a bad one, where `columns` cannot tell.
        write: a file with those of the rows, by position, that are to be kept, and columns added.
    """

    columns: Callable[[Location, Sequence[str]], list[str]]
    cut: Callable[[Location, int], Iterator[Span]]
    read: Callable[[Location, Span, Sequence[str], Sequence[str]], Rows]
    write: Callable[[Any, Sequence[int], Added], bytes]
