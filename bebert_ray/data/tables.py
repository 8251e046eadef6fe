"""Read CSV, TSV, JSONL and Parquet files so that every complaint can name the file and the line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bebert_ray.data.corpus import Split
from bebert_ray.errors import UserError


@dataclass(frozen=True)
class Table:
    """The wanted columns of one file.

    Attributes:
        path: Where it was read.
        columns: Values by column name, one for each row.
        lines: Where each row starts, counted from 1 as an editor does (Parquet: the row itself).
        unit: What ``lines`` counts, ``line`` or ``row``.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    unit: str = "line"

    def error(self, row: int, problem: str) -> UserError:
        """A `UserError` that says where ``row`` stands."""
        return UserError(f"{self.path}, {self.unit} {self.lines[row]}: {problem}")


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """Read the ``wanted`` columns of a file whose suffix is a key of `READERS`.

    Raises:
        UserError: There is no such file or kind of file, or no such column, or a row is
            malformed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: cannot tell its format; the name must end in {SUFFIXES}")
    return reader(path, wanted)


def read_tsv(
    path: Path,
    wanted: Sequence[str],
    *,
    header: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> Table:
    r"""Read tab-separated text: one row a line, no quoting, so a bare ``"`` is only a character.

    Args:
        path: The file; a byte-order mark and ``\r\n`` are accepted.
        wanted: Names of the columns to keep.
        header: Column names of a file that has no header line.
        skip_broken: Leave out rows with the wrong number of columns instead of refusing them.

    Raises:
        UserError: As `read_table`.
    """
    # Not str.splitlines: GLUE text holds Unicode line separators, which end no row.
    rows = [line.removesuffix("\r").split("\t") for line in _read_lines(path)]
    first_line = 1
    if header is None:
        header = rows.pop(0)
        first_line = 2
    lines: Sequence[int] = range(first_line, first_line + len(rows))
    broken = [row for row, fields in enumerate(rows) if len(fields) != len(header)]
    if skip_broken:
        dropped = set(broken)
        lines = [line for row, line in enumerate(lines) if row not in dropped]
        rows = [fields for row, fields in enumerate(rows) if row not in dropped]
    elif broken:
        raise _wrong_width(path, lines[broken[0]], len(header), len(rows[broken[0]]))
    return _from_rows(path, header, wanted, rows, lines)


def _read_csv(path: Path, wanted: Sequence[str]) -> Table:
    rows: list[list[str]] = []
    lines: list[int] = []
    end = 0  # a quoted field may span lines, and the reader only knows where a row ends
    reader = csv.reader((line + "\n" for line in _read_lines(path)), strict=True)
    try:
        for fields in reader:
            start, end = end + 1, reader.line_num
            if not fields:
                continue
            if rows and len(fields) != len(rows[0]):
                raise _wrong_width(path, start, len(rows[0]), len(fields))
            rows.append(fields)
            lines.append(start)
    except csv.Error as error:
        raise UserError(f"{path}, line {end + 1}: not valid CSV ({error})") from error
    return _from_rows(path, rows[0], wanted, rows[1:], lines[1:])


def _read_jsonl(path: Path, wanted: Sequence[str]) -> Table:
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    lines = []
    for line, text in enumerate(_read_lines(path), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {line}: expected one JSON object a line, found {text!r}")
        for name, values in columns.items():
            if name not in record:
                raise _no_column(f"{path}, line {line}", name, record)
            values.append(record[name])
        lines.append(line)
    return Table(path, columns, lines)


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        for name in wanted:
            if name not in names:
                raise _no_column(str(path), name, names)
        table = pq.read_table(path, columns=list(wanted))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({error})") from error
    columns = {name: table.column(name).to_pylist() for name in wanted}
    return Table(path, columns, range(1, len(table) + 1), unit="row")


READERS: dict[str, Callable[[Path, Sequence[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
SUFFIXES = ", ".join(READERS)


def to_split(
    table: Table,
    text_columns: Sequence[str],
    label_column: str,
    labels: Sequence[str] | None,
    score_range: tuple[float, float] = (-math.inf, math.inf),
) -> Split:
    """Turn columns into examples.

    Args:
        table: What was read.
        text_columns: One column or the two of a pair.
        label_column: Where the labels stand.
        labels: The spelling of each class, by label index; ``None`` for regression.
        score_range: Lowest and highest score allowed, for regression.

    Raises:
        UserError: There are no rows, a text is not text, or a label is not one of the task's.
    """
    if not table.lines:
        raise UserError(f"{table.path}: holds no examples")
    texts = tuple(_texts(table, name) for name in text_columns)
    if labels is None:
        return Split(texts, _scores(table, label_column, *score_range))
    return Split(texts, _classes(table, label_column, labels))


def spelled_labels(table: Table, column: str) -> list[str]:
    """The labels as written, one for each row; numbers and booleans are spelled as Python does.

    Raises:
        UserError: A row has no label.
    """
    values = table.columns[column]
    for row, value in enumerate(values):
        # NaN, the only value that is not itself, is how data frames write a missing value.
        if value is None or value == "" or value != value:
            raise table.error(row, f"no label in column {column!r}")
    return [str(value) for value in values]


def _texts(table: Table, column: str) -> list[str]:
    values = table.columns[column]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise table.error(row, f"column {column!r} holds {value!r}, which is not text")
    return values


def _classes(table: Table, column: str, labels: Sequence[str]) -> np.ndarray:
    index = {label: i for i, label in enumerate(labels)}
    spelled = spelled_labels(table, column)
    try:
        return np.array([index[label] for label in spelled], dtype=np.int64)
    except KeyError:
        row = next(row for row, label in enumerate(spelled) if label not in index)
        problem = f"label {spelled[row]!r} is not one of the task's: {', '.join(labels)}"
        raise table.error(row, problem) from None


def _scores(table: Table, column: str, low: float, high: float) -> np.ndarray:
    scores = np.empty(len(table.lines), dtype=np.float32)
    for row, value in enumerate(table.columns[column]):
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise table.error(row, f"score {value!r} in column {column!r} is no number") from None
        if not math.isfinite(score) or not low <= score <= high:
            span = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            raise table.error(row, f"score {value!r} must be a finite number{span}")
        scores[row] = score
    return scores


def _read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their line feeds; blank lines at its end do not count."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    if not text:
        raise UserError(f"{path}: is empty")
    return text.split("\n")


def _from_rows(
    path: Path,
    header: Sequence[str],
    wanted: Sequence[str],
    rows: list[list[str]],
    lines: Sequence[int],
) -> Table:
    columns = {}
    for name in wanted:
        if name not in header:
            raise _no_column(f"{path}, line 1", name, header)
        position = header.index(name)
        columns[name] = [fields[position] for fields in rows]
    return Table(path, columns, lines)


def _wrong_width(path: Path, line: int, expected: int, found: int) -> UserError:
    return UserError(f"{path}, line {line}: expected {expected} columns, found {found}")


def _no_column(where: str, name: str, there: Sequence[str] | dict[str, Any]) -> UserError:
    return UserError(f"{where}: there is no column {name!r}; the columns are: {', '.join(there)}")
