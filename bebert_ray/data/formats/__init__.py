"""File formats, for training and for scoring: CSV, TSV, JSONL and Parquet."""

from __future__ import annotations

from pathlib import PurePosixPath

from bebert_ray.data.formats.base import Added, Format, Rows, Span, find_columns, listed, shown
from bebert_ray.data.formats.delimited import CSV, TSV, tsv_with_header
from bebert_ray.data.formats.json_lines import JSON, JSONL
from bebert_ray.data.formats.parquet import PARQUET
from bebert_ray.errors import UserError
from bebert_ray.storage import Location
from bebert_ray.storage.location import explained

__all__ = [
    "CSV",
    "FORMATS",
    "JSON",
    "JSONL",
    "PARQUET",
    "SUFFIXES",
    "TSV",
    "Added",
    "Format",
    "Rows",
    "Span",
    "check_is_data",
    "find_columns",
    "format_of",
    "listed",
    "shown",
    "tsv_with_header",
    "whole_format_of",
]

FORMATS: dict[str, Format] = {".csv": CSV, ".tsv": TSV, ".jsonl": JSONL, ".parquet": PARQUET}
"""The formats that can be cut into spans, by suffix."""

SUFFIXES = ", ".join(FORMATS)


_NOT_THE_FILE = {
    b"version https://git-lfs": (
        "is a pointer of Git LFS and not the file itself; run `git lfs pull`"
    ),
    b"<!doctype html": "is a web page and not the file itself; download the raw file",
    b"<html": "is a web page and not the file itself; download the raw file",
}


def check_is_data(location: Location) -> None:
    """Refuse what lies in place of a local file: a pointer of Git LFS, a web page, or a pipe.

    Raises:
        UserError: It is none that can be read, and read again.
    """
    if not (location.is_local and location.local.exists()) or location.local.is_dir():
        return  # told elsewhere
    if not location.local.is_file():
        raise UserError(f"{location}: is a pipe or a device; write what it gives into a file first")
    with explained("read", location), location.local.open("rb") as stream:
        head = stream.read(64).lstrip().lower()
    for start, what in _NOT_THE_FILE.items():
        if head.startswith(start):
            raise UserError(f"{location}: {what}")


def format_of(name: str) -> Format:
    """The format that a file's suffix names.

    Raises:
        UserError: The suffix names none that can be cut into spans.

    Examples:
        >>> format_of("reviews.CSV") is CSV
        True
    """
    kind = FORMATS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise UserError(f"{name}: cannot tell its format; the name must end in {SUFFIXES}")
    return kind


def whole_format_of(location: Location) -> Format:
    """The format of a file that is read whole: one of `FORMATS`, .json, or text packed with gzip.

    Raises:
        UserError: The suffix names none.

    Examples:
        >>> whole_format_of(Location.parse("/data/train.jsonl.gz")) is JSONL
        True
    """
    name = location.name.lower()
    suffix = PurePosixPath(name.removesuffix(".gz")).suffix
    kind = {**FORMATS, ".json": JSON}.get(suffix)
    if kind is None or (kind is PARQUET and name.endswith(".gz")):
        raise UserError(
            f"{location}: cannot tell its format; the name must end in {SUFFIXES} or .json (text "
            "may be packed: .csv.gz)"
        )
    return kind
