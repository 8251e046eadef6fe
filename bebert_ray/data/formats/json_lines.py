"""JSONL: one JSON object a line. And .json, which holds an array of objects, or such lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from bebert_ray.data.formats.base import Added, Format, Rows, Span, find_columns, listed, shown
from bebert_ray.data.formats.text import Record, cut, opened, records
from bebert_ray.errors import UserError
from bebert_ray.storage import Location

_LOOKED_AT = 100  # JSON objects whose keys are taken for the columns of a file


def jsonl_records(lines: Iterable[bytes], _: Span | None = None) -> Iterator[Record]:
    """The lines, stripped of blanks."""
    for number, line in enumerate(lines):
        yield Record(number, len(line), line.strip())


def _columns(location: Location, _: Sequence[str]) -> list[str]:
    names: dict[str, None] = {}
    with opened(location) as (lines, _mark):
        rows = (record.value for record in jsonl_records(lines) if record.is_row)
        first = next(rows, b"")
        if first.startswith(b"["):
            raise UserError(f"{location}: is a JSON array; write one object a line")
        objects = (parsed(line) for line in (first, *islice(rows, _LOOKED_AT - 1)))
        for each in objects:
            names |= dict.fromkeys(each) if isinstance(each, dict) else {}
    return list(names)


def parsed(text: bytes) -> Any:
    """The JSON value of a text, or the error that it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if "digits" in str(error):  # Python's advice is for programs
            return ValueError("a number has too many digits")
        return error


def _read(
    location: Location, span: Span | None, wanted: Sequence[str], added: Sequence[str]
) -> Rows:
    numbers: list[int] = []
    lines: list[bytes] = []
    bad: list[tuple[int, str]] = []
    values: tuple[list[Any], ...] = tuple([] for _ in wanted)
    keys = [json.dumps(name, ensure_ascii=False).encode(errors="replace") for name in wanted]
    for number, record in records(jsonl_records, location, span, False):
        line: bytes = record.value
        value = parsed(line)
        if problem := _problem(value, wanted, added):
            bad.append((number, problem))
        elif double := _double(line, keys, wanted):
            bad.append((number, f"{shown(double)} is there more than once"))
        else:
            numbers.append(number)
            lines.append(line)
            for column, name in zip(values, wanted, strict=True):
                column.append(value[name])
    return Rows(numbers, values, lines, bad)


def _problem(value: Any, wanted: Sequence[str], added: Sequence[str]) -> str:
    if isinstance(value, dict):
        for name in wanted:
            if name not in value:
                return f"there is no column {shown(name)}; the columns are: {listed(list(value))}"
        clash = [name for name in added if name in value]
        return f"has a column {shown(min(clash))} already" if clash else ""
    if isinstance(value, Exception):
        return f"not valid JSON ({str(value)[:120]})"
    return "not a JSON object"


def _double(line: bytes, keys: list[bytes], wanted: Sequence[str]) -> str:
    """The wanted name that an object has more than once; json keeps the last of them."""
    if not any(line.count(key) > 1 for key in keys):
        return ""
    # Only the outermost object is looked at: it is the last that the hook is called for.
    outermost: list[tuple[str, Any]] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        outermost[:] = pairs

    json.loads(line, object_pairs_hook=look)
    counts = Counter(name for name, _ in outermost)
    return next((name for name in wanted if counts[name] > 1), "")


def _write(lines: list[bytes], kept: Sequence[int], added: Added) -> bytes:
    ends = zip(*(values.to_pylist() for values in added.values()), strict=True)
    return b"".join(_extended(lines[i], added, end) for i, end in zip(kept, ends, strict=True))


def _extended(line: bytes, names: Iterable[str], values: Iterable[Any]) -> bytes:
    # Spliced, not parsed and written again: what is there keeps its spelling.
    end = json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)
    return line[:-1] + b", " + end[1:].encode() + b"\n"


JSONL = Format(
    columns=_columns,
    cut=partial(cut, jsonl_records, headed=False),
    read=_read,
    write=_write,
)


def _read_json(
    location: Location, span: Span | None, wanted: Sequence[str], added: Sequence[str]
) -> Rows:
    with opened(location) as (lines, _):
        text = lines.read()
    if not text.lstrip().startswith(b"["):
        return _read(location, None, wanted, added)
    items = parsed(text)
    if isinstance(items, Exception):
        raise UserError(f"{location}: not valid JSON ({str(items)[:120]})")
    values: tuple[list[Any], ...] = tuple([] for _ in wanted)
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise UserError(f"{location}, item {number}: not a JSON object")
        find_columns(list(item), wanted, f"{location}, item {number}")
        for column, name in zip(values, wanted, strict=True):
            column.append(item[name])
    return Rows(range(1, len(items) + 1), values, None, [])


def _json_columns(location: Location, text_columns: Sequence[str]) -> list[str]:
    with opened(location) as (lines, _):
        text = lines.read()
    if not text.lstrip().startswith(b"["):
        return _columns(location, text_columns)
    items = parsed(text)
    first = items[0] if isinstance(items, list) and items else None
    return list(first) if isinstance(first, dict) else []


# For training alone: it cannot be cut into spans.
JSON = Format(columns=_json_columns, cut=JSONL.cut, read=_read_json, write=JSONL.write, unit="item")
