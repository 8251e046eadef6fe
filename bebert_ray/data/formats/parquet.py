"""Parquet: spans are rows by number, whatever the row groups are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from bebert_ray.data.formats import base
from bebert_ray.data.formats.base import Added, Format, Rows, Span
from bebert_ray.errors import UserError
from bebert_ray.storage import Location

_BUFFER = 2**20  # bytes that a column of a row group is read by, where all of it may be gigabytes


def _columns(location: Location, text_columns: Sequence[str]) -> list[str]:
    with _opened(location) as file:
        schema = file.schema_arrow
    for name in text_columns:
        if name in schema.names and not _is_text(schema.field(name).type):
            raise UserError(
                f"{location}: column {name!r} is of type {schema.field(name).type}, which is not "
                "text; name another with --text-columns"
            )
    return list(schema.names)


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    # A column of nulls alone has no type: each of its rows lacks the text.
    tests = (types.is_null, types.is_string, types.is_large_string, types.is_string_view)
    return any(test(kind) for test in tests)


def _cut(location: Location, limit: int) -> Iterator[Span]:
    with _opened(location) as file:
        metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    rows = metadata.num_rows
    step = max(1, min(limit, rows * base.MAX_BYTES // max(1, size)))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield Span(start, stop, stop - start, start + 1)


def _read(location: Location, span: Span | None, wanted: Sequence[str], _: Sequence[str]) -> Rows:
    if span is None:
        with _opened(location) as file:
            table = file.read(columns=list(wanted))
        return Rows(range(1, len(table) + 1), _values(table, wanted), table, [])
    pieces = []
    with _opened(location) as file:
        groups, position = _groups(file.metadata, span)
        batches = file.iter_batches(span.rows, row_groups=groups, use_threads=False)
        while position < span.stop:
            batch = next(batches)
            begin = max(0, span.start - position)
            if begin < len(batch):
                pieces.append(batch.slice(begin, span.stop - position - begin))
            position += len(batch)
    table = pa.Table.from_batches(pieces)
    return Rows(range(span.first, span.first + span.rows), _values(table, wanted), table, [])


def _groups(metadata: pq.FileMetaData, span: Span) -> tuple[list[int], int]:
    """The row groups that hold a span, and how many rows are before them."""
    groups, before, position = [], 0, 0
    for group in range(metadata.num_row_groups):
        end = position + metadata.row_group(group).num_rows
        if end <= span.start:
            before = end
        elif position < span.stop:
            groups.append(group)
        position = end
    return groups, before


def _values(table: pa.Table, wanted: Sequence[str]) -> tuple[list[Any], ...]:
    return tuple(values_of(table.column(name)) for name in wanted)


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; text that is not UTF-8, which Arrow does not check, as bytes."""
    if not _is_text(column.type):
        values: list[Any] = column.to_pylist()
        return values
    texts = column.cast(pa.large_string())
    try:
        return list(texts.to_pylist())
    except UnicodeDecodeError:
        return [_decoded(value) for value in texts.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return value and value.decode()
    except UnicodeDecodeError:
        return value


def _write(table: pa.Table, kept: Sequence[int], added: Added) -> bytes:
    if len(kept) < len(table):
        table = table.take(pa.array(kept, pa.int64()))
    for name, values in added.items():
        table = table.append_column(name, values)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


@contextmanager
def _opened(location: Location) -> Iterator[pq.ParquetFile]:
    """A file, opened.

    Raises:
        UserError: It cannot be read, then or in the block.
    """
    try:
        with (
            location.filesystem.open_input_file(location.path) as source,
            pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file,
        ):
            yield file
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{location}: cannot be read as Parquet ({str(error)[:120]})") from error


PARQUET = Format(_columns, _cut, _read, _write, unit="row")
