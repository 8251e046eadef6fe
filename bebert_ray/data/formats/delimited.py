"""CSV with quotes, and TSV as GLUE has it: one row a line, no quoting."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from bebert_ray.data.formats import base
from bebert_ray.data.formats.base import Added, Format, Rows, Span
from bebert_ray.data.formats.safe import csv_safe, tsv_safe
from bebert_ray.data.formats.text import Record, Records, cut, decoded, opened, records
from bebert_ray.errors import UserError
from bebert_ray.storage import Location


class _Lines:
    """The lines of a file for `csv.reader`; those of a row with an error can be put back."""

    def __init__(self, lines: Iterable[bytes]):
        self._lines, self._back = iter(lines), deque[bytes]()
        self.taken: list[bytes] = []
        self.size = 0  # bytes of the lines taken
        self.ended = False  # for the row at hand: the file, or what a row may have

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.size > base.MAX_BYTES:
            self.ended = True
            raise csv.Error(f"a row of more than {base.MAX_BYTES:,} bytes")
        try:
            line = self._back.popleft() if self._back else next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        self.taken.append(line)
        self.size += len(line)
        return decoded(line)

    def clear(self) -> None:
        """Begin a row."""
        self.taken.clear()
        self.size, self.ended = 0, False

    def keep_first(self) -> int:
        """Put all lines but the first back; returns how many of them no error was found in."""
        back = self.taken[1:]
        self._back.extendleft(reversed(back))
        del self.taken[1:]
        return max(0, len(back) - (not self.ended))


def csv_records(lines: Iterable[bytes], span: Span | None = None) -> Iterator[Record]:
    """The rows of CSV, in which a quoted field may span lines.

    Where the quotes do not add up, only the line where the row starts is bad: a quote that is not
    closed must not make the rows behind it unreadable. The lines that were read in search of its
    end are then parsed one by one, so that no line is parsed more than twice.

    Args:
        lines: Each with its line feed.
        span: The span that they are; it says how many of the first lines to parse one by one.
    """
    if csv.field_size_limit() < base.MAX_BYTES:
        csv.field_size_limit(base.MAX_BYTES)
    source, line, alone = _Lines(lines), 0, span.alone if span else 0
    rows = csv.reader(source, strict=True)
    while True:
        source.clear()
        before = alone
        try:
            if alone:
                alone -= 1
                fields, problem = next(csv.reader([next(source)], strict=True), []), ""
            else:
                fields, problem = next(rows), ""
        except StopIteration:
            return
        except csv.Error as error:
            fields, problem = [], f"not valid CSV ({_advice(str(error))})"
            if not before:
                alone = source.keep_first()
        yield Record(line, sum(map(len, source.taken)), fields, problem, before)
        line += len(source.taken)


def _advice(error: str) -> str:
    if "universal-newline" in error:
        return "a carriage return is within a line; end lines with LF or CRLF"
    return error


def tsv_records(lines: Iterable[bytes], span: Span | None = None) -> Iterator[Record]:
    """The rows of TSV. A blank line is a row of one empty field, unless it ends the file."""
    blank: list[Record] = []
    for number, line in enumerate(lines):
        # Not str.splitlines: GLUE text holds Unicode line separators, which end no row.
        text = decoded(line).removesuffix("\n").removesuffix("\r")
        record = Record(number, len(line), text.split("\t"))
        if not text:
            blank.append(record)
            continue
        if blank:
            yield from blank
            blank.clear()
        yield record
    if span:  # cut where another row follows
        yield from blank


def _header(parse: Records, location: Location, _: Sequence[str] = ()) -> list[str]:
    with opened(location) as (lines, _mark):
        head = next(parse(lines, None), None)
    if head is None:
        raise UserError(f"{location}: is empty")
    if head.problem:
        raise UserError(f"{location}, line 1: {head.problem}")
    names: list[str] = head.value
    if not any(names):
        raise UserError(f"{location}: holds no column names; write them into its first line")
    return names


def _read(
    parse: Records,
    header: Sequence[str] | None,
    location: Location,
    span: Span | None,
    wanted: Sequence[str],
    _: Sequence[str],
) -> Rows:
    names = list(header or _header(parse, location))
    numbers: list[int] = []
    rows: list[list[str]] = []
    bad = []
    for number, record in records(parse, location, span, header is None):
        if record.problem:
            bad.append((number, record.problem))
        elif len(record.value) != len(names):
            bad.append((number, f"expected {len(names)} columns, found {len(record.value)}"))
        else:
            numbers.append(number)
            rows.append(record.value)
    positions = [names.index(name) for name in wanted]
    values = tuple([row[position] for row in rows] for position in positions)
    return Rows(numbers, values, [names, *rows], bad)


def _write(
    safe: Callable[[str], str],
    write: Callable[[list[list[str]]], str],
    data: list[list[str]],
    kept: Sequence[int],
    added: Added,
) -> bytes:
    header, *rows = data
    columns = [
        ["" if value is None else safe(str(value)) for value in values.to_pylist()]
        for values in added.values()
    ]
    ends = zip(*columns, strict=True)
    lines = [rows[i] + list(end) for i, end in zip(kept, ends, strict=True)]
    text = write([header + [safe(name) for name in added], *lines])
    return text.encode(errors="surrogateescape")


def _csv_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _tsv_text(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def tsv_with_header(header: Sequence[str] | None) -> Format:
    """TSV whose files have no header line, but these columns; None: the header is in the file."""

    def columns(location: Location, text_columns: Sequence[str]) -> list[str]:
        return list(header) if header else _header(tsv_records, location, text_columns)

    return Format(
        columns=columns,
        cut=partial(cut, tsv_records, headed=header is None),
        read=partial(_read, tsv_records, header),
        write=partial(_write, tsv_safe, _tsv_text),
    )


TSV = tsv_with_header(None)
CSV = Format(
    columns=partial(_header, csv_records),
    cut=partial(cut, csv_records, headed=True),
    read=partial(_read, csv_records, None),
    write=partial(_write, csv_safe, _csv_text),
    empty_is_missing=True,
)
