"""What there is to score, cut into parts: successive rows of one input file, for one output file.

The list of parts is made once, and kept in the output directory with the command that it follows
from. An output file is there whole or not at all, and so the names in the directory tell what is
left to do, whatever was killed: each row is in one output file, or on the list of bad rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pyarrow.fs import FileInfo, FileSelector, FileType

from bebert_ray.errors import UserError
from bebert_ray.predict.parquet import PARQUET
from bebert_ray.predict.rows import Format, Span
from bebert_ray.predict.text import CSV, JSONL, TSV
from bebert_ray.storage import Location, names, read, write_atomic
from bebert_ray.storage.location import explained

# The names that start with "_" are left out by whatever reads the directory as one table.
RECORD = "_predict.json"
BAD_ROWS = "_bad_rows"

FORMATS: dict[str, Format] = {".parquet": PARQUET, ".csv": CSV, ".tsv": TSV, ".jsonl": JSONL}
SUFFIXES = ", ".join(FORMATS)


@dataclass(frozen=True)
class Source:
    """An input file; `modified` in nanoseconds since 1970."""

    location: Location
    size: int
    modified: int


@dataclass(frozen=True)
class Part:
    """Successive rows of an input file, and the output file that they give.

    Attributes:
        name: of the output file.
        source: path or URI of the input file.
        span: which rows.
    """

    name: str
    source: str
    span: Span

    @property
    def bad_rows(self) -> str:
        """Name of the file with the list of its bad rows, if it has any."""
        return f"{BAD_ROWS}/{PurePosixPath(self.name).stem}.jsonl"

    @staticmethod
    def parse(entry: dict[str, Any]) -> Part:
        """The part that `dataclasses.asdict` gave."""
        return Part(entry["name"], entry["source"], Span(**entry["span"]))


def format_of(name: str) -> Format:
    """The format of a file, which its suffix says.

    Raises:
        UserError: it says none.
    """
    kind = FORMATS.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        raise UserError(f"{name}: cannot tell its format; the name must end in {SUFFIXES}")
    return kind


def find_sources(places: Sequence[str], output: Location) -> list[Source]:
    """The input files: those named, and those below the directories named, in order of name.

    Files and directories whose name starts with "_" or "." are not looked at.

    Raises:
        UserError: there is no such file, none of a known format, or `output` is among them.
    """
    found: dict[str, Source] = {}
    for place in places:
        location = Location.parse(place)
        with explained("read", location):
            info = location.filesystem.get_file_info(location.path)
        if info.type == FileType.NotFound:
            raise UserError(f"--input {place}: there is no such file or directory")
        if info.type == FileType.File:
            format_of(location.name)
            sources = [_source(location, info)]
        else:
            if _holds(location, output):
                raise UserError(
                    f"--output {output}: is in the directory that is read; choose one elsewhere"
                )
            sources = list(_below(location))
        if not sources:
            raise UserError(f"--input {place}: holds no file whose name ends in {SUFFIXES}")
        found |= {str(source.location): source for source in sources}
    return list(found.values())


def check_columns(sources: list[Source], text_columns: Sequence[str], added: Sequence[str]) -> None:
    """Look into every file for the columns that are needed, and those that are in the way.

    Raises:
        UserError: a file cannot be read, lacks a column or has one of those to be added.
    """
    for source in sources:
        location = source.location
        there = format_of(location.name).columns(location, text_columns)
        for name in text_columns:
            if there and name not in there:
                raise UserError(
                    f"{location}: there is no column {name!r}; the columns are: {', '.join(there)}"
                    " (--text-columns names those to score)"
                )
        for name in added:
            if name in there:
                raise UserError(
                    f"{location}: has a column {name!r} already; give the new ones other names, as "
                    "with --prefix predicted_"
                )


def check_output(output: Location) -> None:
    """Refuse a directory that is somebody else's, before a lock is left in it.

    Raises:
        UserError: it holds things, and no command has written them.
    """
    there = names(output)
    if RECORD not in there and (others := there - {".lock"}):
        raise UserError(
            f"{output} holds other things ({min(others)} for one); choose an empty directory"
        )


def open_output(
    output: Location, command: dict[str, Any], sources: list[Source], limit: int
) -> list[Part]:
    """Take an output directory up for a command, or up again; hold its lock.

    Args:
        output: the directory; see `check_output`.
        command: all that the content of the output files depends on but the input, as JSON.
        sources: the input files.
        limit: the most rows a part; the command has it too.

    Returns:
        All parts, also those that are done.

    Raises:
        UserError: another command has written there, or the input holds no rows.
    """
    inputs = [[str(each.location), each.size, each.modified] for each in sources]
    wanted = json.loads(json.dumps(command | {"input": inputs}))
    try:
        record = json.loads(read(output / RECORD))
        made, parts = dict(record["command"]), [Part.parse(part) for part in record["parts"]]
    except FileNotFoundError:
        return _begin(output, wanted, list(_cut(sources, limit)))
    except (ValueError, KeyError, TypeError) as error:
        raise _taken(output, f"{RECORD} is not as it was written") from error
    if changed := [key for key in wanted if made.get(key) != wanted[key]]:
        raise _taken(output, f"not the same are {', '.join(changed)}")
    return parts


def _begin(output: Location, command: dict[str, Any], parts: list[Part]) -> list[Part]:
    if not parts:
        raise UserError("the input files hold no rows")
    record = {"command": command, "parts": [asdict(part) for part in parts]}
    write_atomic(output / RECORD, json.dumps(record))
    return parts


def _below(directory: Location) -> Iterator[Source]:
    selector = FileSelector(directory.path, recursive=True)
    with explained("read", directory):
        infos = directory.filesystem.get_file_info(selector)
    for info in sorted(infos, key=lambda info: info.path):
        name = PurePosixPath(info.path).relative_to(directory.path)
        hidden = any(part.startswith(("_", ".")) for part in name.parts)
        if info.type == FileType.File and name.suffix.lower() in FORMATS and not hidden:
            yield _source(directory / str(name), info)


def _source(location: Location, info: FileInfo) -> Source:
    return Source(location, info.size, info.mtime_ns)


def _cut(sources: list[Source], rows: int) -> Iterator[Part]:
    count = 0
    for source in sources:
        location = source.location
        suffix = PurePosixPath(location.name).suffix.lower()
        for span in FORMATS[suffix].cut(location, rows):
            yield Part(f"part-{count:06d}{suffix}", str(location), span)
            count += 1


def _taken(output: Location, why: str) -> UserError:
    return UserError(
        f"{output} holds the output of another command: {why}. Choose another output directory, or "
        "delete this one."
    )


def _holds(directory: Location, place: Location) -> bool:
    """Whether `place` is the directory or below it."""
    same = directory.filesystem == place.filesystem
    return same and f"{place.path}/".startswith(f"{directory.path}/")
