"""CSV, TSV and JSONL files: spans are bytes, from the beginning of a row to the end of another.

What a row holds is written again as it was read, and the new columns behind it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from bebert_ray.errors import UserError
from bebert_ray.predict.rows import MAX_BYTES, Added, Format, Rows, Span
from bebert_ray.storage import Location

_BUFFER = 2**20  # bytes read at a time
_BOM = b"\xef\xbb\xbf"
_LOOKED_AT = 100  # JSON objects whose keys are taken for the columns of a file


@dataclass(frozen=True)
class _Record:
    """A row as it stands in a file, or a blank line.

    Attributes:
        line: the line where it starts, counted from 0.
        size: its bytes, the line feed included.
        value: its fields, in JSONL the line itself; empty if the line is blank.
        problem: why it cannot be read, if so.
    """

    line: int
    size: int
    value: Any
    problem: str = ""

    @property
    def is_row(self) -> bool:
        return bool(self.value or self.problem)


Records = Callable[[Iterable[bytes]], Iterator[_Record]]
"""From lines, each with its line feed, to rows."""


class _Lines:
    """The lines of a file for `csv.reader`; those of a row that came to nothing can be put back."""

    def __init__(self, lines: Iterable[bytes]):
        self._lines, self._back = iter(lines), deque[bytes]()
        self.taken: list[bytes] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.taken.append(line)
        return _text(line)

    def keep_first(self) -> None:
        """Put back all that was taken but the first line."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    """Rows of CSV, in which a quoted field may span lines.

    Where the quotes do not add up, only the line where the row starts is given up: a quote that
    nobody closed must not take all rows behind it along.
    """
    source, line = _Lines(lines), 0
    rows = csv.reader(source, strict=True)
    while True:
        source.taken.clear()
        try:
            fields, problem = next(rows), ""
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], f"not valid CSV ({error})"
            source.keep_first()
        yield _Record(line, sum(map(len, source.taken)), fields, problem)
        line += len(source.taken)


def _tsv_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    """Rows of TSV as GLUE has it: one a line, no quoting."""
    for number, line in enumerate(lines):
        text = _text(line).rstrip("\r\n")
        yield _Record(number, len(line), text.split("\t") if text else [])


def _jsonl_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    for number, line in enumerate(lines):
        yield _Record(number, len(line), line.removeprefix(_BOM).strip())


def _cut(records: Records, location: Location, limit: int, headed: bool) -> Iterator[Span]:
    with _opened(location) as lines:
        found = records(lines)
        position = next(found).size if headed else 0
        start = first = rows = 0
        for record in found:
            if not rows:
                start, first = position, record.line + 1
            position += record.size
            rows += record.is_row
            if rows and (rows == limit or position - start >= MAX_BYTES):
                yield Span(start, position, rows, first)
                rows = 0
        if rows:
            yield Span(start, position, rows, first)


def _rows(records: Records, location: Location, span: Span) -> Iterator[tuple[int, _Record]]:
    """The rows of a span, each with its number."""
    try:
        with location.filesystem.open_input_file(location.path) as file:
            file.seek(span.start)
            content = file.read(span.stop - span.start)
    except OSError as error:
        raise _unreadable(location, error) from error
    for record in records(io.BytesIO(content)):
        if record.is_row:
            yield span.first + record.line, record


def _header(records: Records, location: Location, _: Sequence[str] = ()) -> list[str]:
    with _opened(location) as lines:
        head = next(records(lines), None)
    if head is None or not head.is_row:
        raise UserError(f"{location}: holds no column names; they belong into its first line")
    if head.problem:
        raise UserError(f"{location}, line 1: {head.problem}")
    names: list[str] = head.value
    return [names[0].removeprefix("\ufeff"), *names[1:]]


def _read_fields(
    records: Records,
    missing: str | None,
    location: Location,
    span: Span,
    text_columns: Sequence[str],
    _: Sequence[str],
) -> Rows:
    header = _header(records, location)
    rows: dict[int, list[str]] = {}
    bad = []
    for number, record in _rows(records, location, span):
        if record.problem:
            bad.append((number, record.problem))
        elif len(record.value) != len(header):
            bad.append((number, f"expected {len(header)} columns, found {len(record.value)}"))
        else:
            rows[number] = record.value
    positions = map(header.index, text_columns)
    texts = tuple([row[i] or missing for row in rows.values()] for i in positions)
    return Rows(list(rows), texts, [header, *rows.values()], bad)


def _write_fields(
    write: Callable[[list[list[str]]], str],
    data: list[list[str]],
    kept: Sequence[int],
    added: Added,
) -> bytes:
    header, *rows = data
    columns = [map(str, values.to_pylist()) for values in added.values()]
    ends = zip(*columns, strict=True)
    lines = [rows[i] + list(end) for i, end in zip(kept, ends, strict=True)]
    return write([header + list(added), *lines]).encode(errors="surrogateescape")


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tsv_text(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def _keys(location: Location, _: Sequence[str]) -> list[str]:
    with _opened(location) as lines:
        objects = (_parsed(record.value) for record in _jsonl_records(lines))
        found = islice((each for each in objects if isinstance(each, dict)), _LOOKED_AT)
        return list(dict.fromkeys(name for each in found for name in each))


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, or the error that it is not one."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _read_objects(
    location: Location, span: Span, text_columns: Sequence[str], added: Sequence[str]
) -> Rows:
    numbers, lines, bad = [], [], []
    texts: tuple[list[Any], ...] = tuple([] for _ in text_columns)
    for number, record in _rows(_jsonl_records, location, span):
        value = _parsed(record.value)
        if isinstance(value, Exception):
            bad.append((number, f"not valid JSON ({value})"))
        elif not isinstance(value, dict):
            bad.append((number, "not a JSON object"))
        elif clash := value.keys() & set(added):
            bad.append((number, f"has a column {min(clash)!r} already"))
        else:
            numbers.append(number)
            lines.append(record.value)
            for column, name in zip(texts, text_columns, strict=True):
                column.append(value.get(name))
    return Rows(numbers, texts, lines, bad)


def _write_objects(lines: list[bytes], kept: Sequence[int], added: Added) -> bytes:
    ends = zip(*(values.to_pylist() for values in added.values()), strict=True)
    return b"".join(_extended(lines[i], added, end) for i, end in zip(kept, ends, strict=True))


def _extended(line: bytes, names: Iterable[str], values: Iterable[Any]) -> bytes:
    # Spliced, not parsed and written again: what is there keeps its spelling.
    end = json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)
    return line[:-1] + b", " + end[1:].encode() + b"\n"


def _text(line: bytes) -> str:
    """A line. Bytes that are not UTF-8 pass through; they matter in text columns alone."""
    return line.decode(errors="surrogateescape")


@contextmanager
def _opened(location: Location) -> Iterator[io.BufferedReader]:
    """A file's lines; that it cannot be read is told to people."""
    try:
        with location.filesystem.open_input_stream(location.path, compression=None) as stream:
            yield io.BufferedReader(stream, _BUFFER)
    except OSError as error:
        raise _unreadable(location, error) from error


def _unreadable(location: Location, error: OSError) -> UserError:
    return UserError(f"{location}: cannot be read ({error.strerror or error})")


CSV = Format(
    columns=partial(_header, _csv_records),
    cut=partial(_cut, _csv_records, headed=True),
    read=partial(_read_fields, _csv_records, None),  # an empty field is how CSV spells a null
    write=partial(_write_fields, _csv_text),
)
TSV = Format(
    columns=partial(_header, _tsv_records),
    cut=partial(_cut, _tsv_records, headed=True),
    read=partial(_read_fields, _tsv_records, ""),
    write=partial(_write_fields, _tsv_text),
)
JSONL = Format(
    columns=_keys,
    cut=partial(_cut, _jsonl_records, headed=False),
    read=_read_objects,
    write=_write_objects,
)
