"""Whole tables, from files or from memory, as examples; each error names the table and the row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bebert_ray.data.corpus import Split
from bebert_ray.data.formats import (
    check_is_data,
    find_columns,
    listed,
    shown,
    tsv_with_header,
    whole_format_of,
)
from bebert_ray.data.formats.parquet import values_of
from bebert_ray.errors import UserError
from bebert_ray.paths import is_utf8
from bebert_ray.storage import Location

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SCALARS = (str, bool, int, float, Decimal)


@dataclass(frozen=True)
class Table:
    """The wanted columns of a table.

    Attributes:
        name: What messages call it: the file, or ``train`` for a table in memory.
        columns: Values by column name, one for each row.
        lines: The number of each row, from 1: in text the line where it starts.
        unit: What ``lines`` counts, such as ``line`` or ``row``.
    """

    name: str
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    unit: str = "line"

    def error(self, row: int, problem: str) -> UserError:
        """A `UserError` that names the place of ``row`` (from 0)."""
        return UserError(f"{self.name}, {self.unit} {self.lines[row]}: {problem}")


def read_table(
    place: Path | Location,
    wanted: Sequence[str],
    *,
    header: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Table:
    """Read the ``wanted`` columns of a CSV, TSV, JSONL, JSON or Parquet file, local or not.

    Args:
        place: The file; its suffix names the format.
        wanted: Names of the columns to keep.
        header: Column names of a TSV file that has no header line.
        skip_bad: Leave out rows that cannot be read instead of refusing them.

    Raises:
        UserError: There is no such file, format or column, or a row cannot be read.
    """
    location = Location.of(place)
    kind = tsv_with_header(header) if header else whole_format_of(location)
    check_is_data(location)
    there = kind.columns(location, ())
    if there or kind.unit == "row":  # JSON without objects has bad rows alone
        where = str(location) if kind.unit == "row" else f"{location}, {kind.unit} 1"
        find_columns(there, wanted, where)
    rows = kind.read(location, None, wanted, ())
    if rows.bad and not skip_bad:
        number, reason = min(rows.bad)
        raise UserError(f"{location}, {kind.unit} {number}: {reason}")
    columns = dict(zip(wanted, rows.values, strict=True))
    return Table(str(location), columns, rows.numbers, kind.unit)


def table_of(name: str, table: pa.Table, wanted: Sequence[str]) -> Table:
    """The ``wanted`` columns of a table in memory; messages call it ``name``.

    Raises:
        UserError: A wanted column is missing or double.

    Examples:
        >>> table = table_of("train", pa.table({"text": ["good"], "label": [1]}), ["text"])
        >>> str(table.error(0, "is too short"))
        'train, row 1: is too short'
    """
    find_columns(table.column_names, wanted, name)
    columns = {column: values_of(table.column(column)) for column in wanted}
    return Table(name, columns, range(1, len(table) + 1), unit="row")


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
        label_column: The column of the labels.
        labels: The spelling of each class, by label index; ``None`` for regression.
        score_range: Lowest and highest score allowed, for regression.

    Raises:
        UserError: There are no rows, a text is not UTF-8 text, or a label is not one of the task's.
    """
    if not table.lines:
        raise UserError(f"{table.name}: holds no examples")
    texts = tuple(_texts(table, name) for name in text_columns)
    if labels is None:
        return Split(texts, _scores(table, label_column, *score_range))
    return Split(texts, _classes(table, label_column, labels))


def spelled_labels(table: Table, column: str) -> list[str]:
    """The labels as text, one for each row; numbers and booleans are spelled as Python does.

    Raises:
        UserError: A row has no label, or one that is not a single value or not UTF-8 text.
    """
    values = table.columns[column]
    for row, value in enumerate(values):
        # NaN, the only value that is not itself, is how data frames write a missing value.
        if value is None or value == "" or value != value:
            raise table.error(row, f"no label in column {shown(column)}")
        if isinstance(value, str):
            if not value.isascii() and not is_utf8(value):
                raise table.error(row, _not_utf8(column))
        elif isinstance(value, bytes):
            raise table.error(row, _not_utf8(column))
        elif not isinstance(value, _SCALARS):
            raise table.error(
                row, f"label {shown(value)} in column {shown(column)} is not a single value"
            )
    return [str(value) for value in values]


def similar_labels(labels: Sequence[str]) -> list[list[str]]:
    """Groups of labels that differ in blanks, in case or in how a number is written.

    Examples:
        >>> similar_labels(["0", "1", "1 ", "1.0", "b"])
        [['1', '1 ', '1.0']]
    """
    groups: dict[object, list[str]] = {}
    for label in labels:
        key: object = label.strip().casefold()
        with suppress(ArithmeticError):  # a float would not tell large whole numbers apart
            if (number := Decimal(label.strip())).is_finite():
                key = number
        groups.setdefault(key, []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _not_utf8(column: str) -> str:
    return f"column {shown(column)} holds what is not UTF-8 text; save the file as UTF-8"


def _texts(table: Table, column: str) -> list[str]:
    values = table.columns[column]
    for row, value in enumerate(values):
        if isinstance(value, bytes) or (isinstance(value, str) and not is_utf8(value)):
            raise table.error(row, _not_utf8(column))
        if not isinstance(value, str):
            raise table.error(row, f"column {shown(column)} holds {shown(value)}, not text")
    return values


def _classes(table: Table, column: str, labels: Sequence[str]) -> np.ndarray:
    index = {label: i for i, label in enumerate(labels)}
    spelled = spelled_labels(table, column)
    try:
        return np.array([index[label] for label in spelled], dtype=np.int64)
    except KeyError:
        row = next(row for row, label in enumerate(spelled) if label not in index)
        problem = f"label {shown(spelled[row])} is not one of the task's: {listed(labels)}"
        raise table.error(row, problem) from None


def _scores(table: Table, column: str, low: float, high: float) -> np.ndarray:
    scores = np.empty(len(table.lines), dtype=np.float32)
    for row, value in enumerate(table.columns[column]):
        try:
            score = float(value)
        except OverflowError:
            score = math.inf
        except (TypeError, ValueError):
            problem = f"score {shown(value)} in column {shown(column)} is no number"
            raise table.error(row, problem) from None
        if not math.isfinite(score) or not low <= score <= high:
            span = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            raise table.error(row, f"score {shown(value)} must be a finite number{span}")
        if abs(score) > _FLOAT32_MAX:
            raise table.error(
                row, f"score {shown(value)} is out of range; the limit is {_FLOAT32_MAX:.1e}"
            )
        scores[row] = score
    return scores
