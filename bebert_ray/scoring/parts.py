"""The parts of the input: successive rows of one input file, which become one output file.

The list of parts is made once, and kept in the output directory with the command that it depends
on. An output file is there whole or not at all; so the names in the directory tell what is left to
do after any interruption: each row is in one output file, or in a list of bad rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from pyarrow.fs import FileInfo, FileSelector, FileType

from bebert_ray.data.formats import (
    FORMATS,
    SUFFIXES,
    Span,
    check_is_data,
    find_columns,
    format_of,
    listed,
    shown,
)
from bebert_ray.errors import UserError
from bebert_ray.storage import Location, names, read, remove, write_atomic
from bebert_ray.storage.copies import LOCK
from bebert_ray.storage.hashing import checksum
from bebert_ray.storage.location import explained
from bebert_ray.storage.records import NewerVersion, opened, sealed

# The names that start with "_" are left out by whatever reads the directory as one table.
RECORD = "_predict.json"
BAD_ROWS = "_bad_rows"

Partition = dict[str, str | None]
"""Columns whose values are in the names of a file's directories, as ``year=2020``."""

_NAME = re.compile(r"part-\d{6,}\.[a-z]+")
FORMAT, VERSION = "bebert-prediction", 1
"""Of the record."""

_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """An input file.

    Attributes:
        location: Where it is.
        size: In bytes.
        modified: In nanoseconds since 1970.
        partition: The columns that its directories name, below the directory that is the input.
    """

    location: Location
    size: int
    modified: int
    partition: Partition = field(default_factory=dict)

    @cached_property
    def digest(self) -> str | None:
        """SHA-256 of its content, when first asked for; None in an object store.

        Raises:
            UserError: it cannot be read.
        """
        return _digest(self.location)


@dataclass(frozen=True)
class Part:
    """Successive rows of an input file, and the output file that they give.

    Attributes:
        name: Of the output file.
        source: Path or URI of the input file.
        span: Which rows.
        partition: Columns to add, each with the same value in all rows.
    """

    name: str
    source: str
    span: Span
    partition: Partition = field(default_factory=dict)

    @property
    def bad_rows(self) -> str:
        """Name of the file with the list of its bad rows, if it has any."""
        return f"{BAD_ROWS}/{PurePosixPath(self.name).stem}.jsonl"

    @staticmethod
    def parse(entry: dict[str, Any]) -> Part:
        """The part that `dataclasses.asdict` gave.

        Raises:
            ValueError, KeyError, TypeError: it is none; its name may not lead elsewhere.
        """
        span = Span(**entry["span"])
        if not all(type(value) is int and value >= 0 for value in asdict(span).values()):
            raise ValueError("a span is no numbers")
        if not _NAME.fullmatch(entry["name"]):
            raise ValueError(f"{entry['name'][:60]!r} is no name of a part")
        return Part(entry["name"], entry["source"], span, dict(entry.get("partition", {})))


def find_sources(places: Sequence[str], output: Location) -> list[Source]:
    """The input files: those named, and those below the directories named, in order of name.

    Files and directories whose name starts with "_" or "." are not read, except for directories
    of a partition, such as ``_year=2020``.

    Raises:
        UserError: There is no such file, none of a known format, or `output` is in a directory.
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
        elif info.type != FileType.Directory:
            raise UserError(f"--input {place}: is a pipe or a device; give a file or a directory")
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
    """Check every file for the columns that are needed, and for those that are to be added.

    Raises:
        UserError: A file cannot be read, lacks a column or has one of those to be added.
    """
    for source in sources:
        location = source.location
        check_is_data(location)
        there = format_of(location.name).columns(location, text_columns)
        if there:
            try:
                find_columns(there, text_columns, str(location))
            except UserError as error:
                raise UserError(f"{error} (--text-columns names those to score)") from None
        for name in added:
            if name in there or name in source.partition:
                raise UserError(
                    f"{location}: has a column {shown(name)} already; leave it out, or give the "
                    "new ones other names, as with --prefix predicted_"
                )


def check_output(output: Location) -> None:
    """Refuse a directory that this program did not write, before a lock is left in it.

    Raises:
        UserError: It holds other things.
    """
    there = names(output)
    if RECORD not in there and (others := there - {LOCK}):
        raise UserError(
            f"{output} holds other things ({min(others)} for one); choose an empty directory"
        )


def open_output(
    output: Location, command: dict[str, Any], sources: list[Source], limit: int
) -> list[Part]:
    """Begin a command's output directory, or continue it. The caller holds its lock.

    Args:
        output: The directory; see `check_output`.
        command: All that the content of the output files depends on except the input, as JSON.
        sources: The input files.
        limit: The most rows of a part; the command has it too.

    Returns:
        All parts, also those that are done.

    Raises:
        UserError: Another command has written there, or the input holds no rows.
    """
    place = output / RECORD
    inputs = [[str(each.location), each.size, each.modified, each.digest] for each in sources]
    wanted = json.loads(json.dumps(command | {"input": inputs}))
    try:
        record = opened(read(place), place, FORMAT, VERSION)
        made, parts = dict(record["command"]), [Part.parse(part) for part in record["parts"]]
    except FileNotFoundError:
        if not (parts := list(_cut(sources, limit))):
            files = listed([str(source.location) for source in sources])
            raise UserError(f"--input: no rows are in {files}") from None
        _begin(output, wanted, parts)
        return parts
    except NewerVersion:
        raise
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{output}: {RECORD} is not as it was written, or not of bebert_ray. Choose another "
            "output directory, or delete this one"
        ) from error
    if changed := [key for key in wanted if made.get(key) != wanted[key]]:
        raise _taken(output, f"not the same are {', '.join(changed)}")
    return parts


def _begin(output: Location, command: dict[str, Any], parts: list[Part]) -> None:
    record = {"command": command, "parts": [asdict(part) for part in parts]}
    write_atomic(output / RECORD, json.dumps(sealed(record, FORMAT, VERSION)))


def abandon(output: Location) -> None:
    """Forget a command that cannot be carried out and has scored nothing, so that another may."""
    if names(output) <= {RECORD, LOCK}:
        remove(output / RECORD)


def _digest(location: Location) -> str | None:
    if not location.is_local:  # an object store changes the time at any write
        return None
    with explained("read", location):
        found: str = checksum(location.local)["sha256"]
        return found


def check_same(source: Source) -> None:
    """Refuse an input file whose content is not what was planned with, whatever its time says.

    Raises:
        UserError: its content, size or time is another, or it is gone.
    """
    check_unchanged(source.location, source.size, source.modified)
    if _digest(source.location) != source.digest:
        raise _changed(source.location)


def check_unchanged(location: Location, size: int, modified: int) -> None:
    """Refuse an input file that is not what was planned with.

    Raises:
        UserError: its size or time is another, or it is gone.
    """
    with explained("read", location):
        info = location.filesystem.get_file_info(location.path)
    if (info.type, info.size, info.mtime_ns) != (FileType.File, size, modified):
        raise _changed(location)


def _changed(location: Location) -> UserError:
    return UserError(
        f"{location} has changed since the command began: rows of both versions would be mixed. "
        "What is written is of the earlier one; choose another output directory for this"
    )


def _below(directory: Location) -> Iterator[Source]:
    selector = FileSelector(directory.path, recursive=True)
    with explained("read", directory):
        infos = directory.filesystem.get_file_info(selector)
    try:
        infos.sort(key=lambda info: info.path)
    except UnicodeDecodeError as error:
        shown = ascii(error.object.decode(errors="surrogateescape"))[:200]
        raise UserError(
            f"--input {directory}: the name of {shown} is not UTF-8 text; rename it"
        ) from error
    for info in infos:
        name = PurePosixPath(info.path).relative_to(directory.path)
        hidden = name.name.startswith(("_", ".")) or any(
            part.startswith(("_", ".")) and "=" not in part for part in name.parent.parts
        )
        if info.type == FileType.File and name.suffix.lower() in FORMATS and not hidden:
            yield _source(directory / str(name), info, partition_of(name.parent))


def partition_of(folder: PurePosixPath) -> Partition:
    """The columns that the names of directories give, as Hive and Spark write them.

    Examples:
        >>> partition_of(PurePosixPath("year=2020/city=S%C3%A3o%20Paulo"))
        {'year': '2020', 'city': 'São Paulo'}
    """
    pairs = (part.split("=", 1) for part in folder.parts if "=" in part)
    return {unquote(key): None if value == _NULL else unquote(value) for key, value in pairs}


def without_empty(sources: list[Source]) -> tuple[list[Source], list[Source]]:
    """The files that hold bytes, and those that are empty."""
    empty = [source for source in sources if source.size == 0]
    return [source for source in sources if source.size != 0], empty


def _source(location: Location, info: FileInfo, partition: Partition | None = None) -> Source:
    return Source(location, info.size, info.mtime_ns, partition or {})


def _cut(sources: list[Source], rows: int) -> Iterator[Part]:
    count = 0
    for source in sources:
        location = source.location
        suffix = PurePosixPath(location.name).suffix.lower()
        for span in FORMATS[suffix].cut(location, rows):
            yield Part(f"part-{count:06d}{suffix}", str(location), span, source.partition)
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
