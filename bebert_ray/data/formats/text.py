"""What the text formats share: lines, records, and spans of bytes.

A span reaches from the first byte of a row to the last byte of another.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from bebert_ray.data.formats import base
from bebert_ray.data.formats.base import Span
from bebert_ray.errors import UserError
from bebert_ray.storage import Location

_BUFFER = 2**20  # bytes read at a time
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Record(NamedTuple):
    """A row as it stands in a file, or a blank line.

    Attributes:
        line: The line where it starts, from 0.
        size: Its bytes, with the line feed.
        value: Its fields, or in JSONL the line itself; empty for a blank line.
        problem: Why it cannot be read; empty if it can.
        alone: How many lines, from this one on, are parsed one by one.
    """

    line: int
    size: int
    value: Any
    problem: str = ""
    alone: int = 0

    @property
    def is_row(self) -> bool:
        """Whether it is more than a blank line."""
        return bool(self.value or self.problem)


Records = Callable[[Iterable[bytes], Span | None], Iterator[Record]]
"""From lines, each with its line feed, to records. The span is the one that they are, if any."""


def cut(parse: Records, location: Location, limit: int, headed: bool) -> Iterator[Span]:
    """Cut a file into spans of at most ``limit`` rows; ``headed`` files begin with a header."""
    with opened(location) as (lines, position):
        found = parse(lines, None)
        if headed:
            position += next(found).size
        start = first = rows = alone = 0
        for record in found:
            if not rows:
                start, first, alone = position, record.line + 1, record.alone
            position += record.size
            rows += record.is_row
            if rows and (rows == limit or position - start >= base.MAX_BYTES):
                yield Span(start, position, rows, first, alone)
                rows = 0
        if rows:
            yield Span(start, position, rows, first, alone)


def records(
    parse: Records, location: Location, span: Span | None, headed: bool
) -> Iterator[tuple[int, Record]]:
    """The rows of a span, or of the whole file without its header, each with its line from 1."""
    if span is None:
        with opened(location) as (lines, _):
            found = parse(lines, None)
            if headed:
                next(found, None)
            for record in found:
                if record.is_row:
                    yield 1 + record.line, record
        return
    try:
        with location.filesystem.open_input_file(location.path) as file:
            file.seek(span.start)
            content = file.read(span.stop - span.start)
    except OSError as error:
        raise unreadable(location, error) from error
    for record in parse(io.BytesIO(content), span):
        if record.is_row:
            yield span.first + record.line, record


@contextmanager
def opened(location: Location) -> Iterator[tuple[io.BufferedReader, int]]:
    """A file's lines behind its byte-order mark, and the length of that mark in bytes.

    Raises:
        UserError: The file cannot be read, or is UTF-16 text.
    """
    packed = "gzip" if location.name.lower().endswith(".gz") else None
    try:
        with location.filesystem.open_input_stream(location.path, compression=packed) as stream:
            lines = io.BufferedReader(stream, _BUFFER)
            start = lines.peek(len(_BOM))[: len(_BOM)]
            if start.startswith(_UTF_16):
                raise UserError(f"{location}: is UTF-16 text; save the file as UTF-8")
            mark = len(_BOM) if start == _BOM else 0
            lines.read(mark)
            yield lines, mark
    except OSError as error:
        raise unreadable(location, error) from error


def decoded(line: bytes) -> str:
    """A line as text; bytes that are not UTF-8 become surrogates, and are written unchanged."""
    return line.decode(errors="surrogateescape")


def unreadable(location: Location, error: OSError) -> UserError:
    """The `UserError` for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{location}: there is no such file")
    return UserError(f"{location}: cannot be read ({(error.strerror or str(error))[:120]})")
