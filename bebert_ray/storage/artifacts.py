"""Artifacts: directories that are there complete and as they were written, or not at all.

An artifact is what a finished step leaves behind: a directory of files and `artifact.json`, the
record of what made it and what is in it,

    {"stage": ..., "inputs": {...}, "fingerprint": sha256 of the inputs,
     "files": {name: {"sha256": ..., "bytes": ...}}, "facts": {...},
     "checksum": sha256 of all else in the record}

A step asks `find` for an artifact made from its inputs, and has `commit` make one if there is none.
Whatever goes wrong in between, a killed process and a full disk included, `find` sees the artifact
of before, the new one or none, and never one that is half written.

Any number of processes may `find` and `commit` at the same time; the last one to commit wins. That
two do for one step happens when a worker believed dead is not. They make the same, and the second
one leaves it at that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from bebert_ray.errors import RunError, UserError
from bebert_ray.storage import copies, disk
from bebert_ray.storage.files import names, read, write_atomic
from bebert_ray.storage.hashing import canonical, checksum, fingerprint
from bebert_ray.storage.location import Location, explained, make_directory
from bebert_ray.storage.records import check_inside, check_name, check_version, parse_json

RECORD = "artifact.json"
VERSION = 1
"""Of the record; one without a version has this one."""
LOOKS = (0.0, 0.05, 0.2)  # seconds before each look at what is in the way of an artifact
UNFINISHED = b'"being written"'  # stands for the record in an object store until it is there


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    Attributes:
        path: the directory where this machine has its files; for reading only.
        stage: the stage that made it.
        inputs: what it was made from, as JSON gives it back.
        facts: what its stage has to say of it: metrics, seconds, versions.
        digest: hash of the names and contents of its files. In a later stage's inputs it stands
            for this artifact: made anew with the same content, it leaves that stage finished.
        location: where it is.
    """

    path: Path
    stage: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    digest: str
    location: Location


@dataclass(frozen=True)
class Miss:
    """There is no such artifact, and why: "absent", "inputs changed: …" or "damaged: …"."""

    reason: str

    @property
    def is_outdated(self) -> bool:
        """Whether there is one, made from something else."""
        return self.reason.startswith("inputs changed")


@dataclass(frozen=True)
class _Record:
    """What `artifact.json` says; `files` holds the checksums by name."""

    stage: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, Any]

    def made_as(self, other: _Record) -> bool:
        """Whether both tell of the same inputs and files."""
        return (self.inputs, self.files) == (other.inputs, other.files)


def find(place: Path | Location, inputs: dict[str, Any]) -> Artifact | Miss:
    """The artifact at `place`, if it was made from `inputs` and every file is as it was written.

    Reads and hashes every file. What is in an object store is copied to this machine first, unless
    it has been before, and has not been written to since.

    Raises:
        UserError: what is there cannot be read, or was made by a newer version.
        TypeError, ValueError: `inputs` is not JSON.
    """
    location, wanted = Location.of(place), json.loads(canonical(inputs))
    record = _read_record(location)
    if isinstance(record, Miss):
        return record
    if changed := _changed(record.inputs, wanted):
        return Miss(f"inputs changed: {', '.join(changed)}")
    return _verify(location, record)


def fetch(place: Path | Location) -> Artifact:
    """The artifact at `place`, whatever it was made from; every file is as it was written.

    Raises:
        RunError: it is absent or damaged.
        UserError: what is there cannot be read.
    """
    location = Location.of(place)
    record = _read_record(location)
    found = record if isinstance(record, Miss) else _verify(location, record)
    if isinstance(found, Miss):
        raise RunError(
            f"{location} is {found.reason}. Give the same command again: it is made anew."
        )
    return found


def commit(
    place: Path | Location,
    stage: str,
    inputs: dict[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
) -> Artifact:
    """Make the artifact at `place`, in place of the one there may be.

    The files are written into a draft on the local disk, the record last, and flushed. Then the
    draft takes its place; between two renames, for microseconds, there is no artifact. Into an
    object store the files are copied from the draft, again the record last; all the while there
    is no artifact.

    Args:
        place: the artifact's directory; its parents are made.
        stage: name of the stage.
        inputs: all that the outcome depends on, as JSON.
        write: writes the files into the directory given to it, and returns the facts, as JSON.

    Raises:
        UserError: the disk is full, permission is missing, the store does not answer or the like,
            or `place` holds something that is not an artifact. On a local disk what `find` saw
            there it sees still, or the new artifact.
        TypeError, ValueError: `inputs` or the facts are not JSON.
    """
    location = Location.of(place)
    head = {"stage": stage, "inputs": inputs, "fingerprint": fingerprint(inputs)}
    with explained("write", location):
        _check_replaceable(location, stage)
        home = location.local if location.is_local else copies.home(location)
        draft = home.with_name(disk.draft_name(home.name))
        try:
            if location.is_local:
                make_directory(location.parent)
                draft.mkdir()
            else:
                draft.mkdir(parents=True)
            facts = dict(write(draft))
            entries = head | {"files": _flush(draft), "facts": facts}
            entries["checksum"] = fingerprint(entries)
            text = json.dumps(entries, indent=2, ensure_ascii=False).encode()
            record = _parse(text, location)
            disk.write_file(draft / RECORD, text)
            return _publish(draft, location, record)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def discard(place: Path | Location, files: Collection[str] = ()) -> None:
    """Delete an artifact: the files that its record lists, and the record; nothing else.

    Args:
        place: its directory. What is no artifact stays as it is.
        files: those to delete if the record is damaged or missing.

    Raises:
        UserError: it cannot be deleted.
    """
    location = Location.of(place)
    record = _read_record(location)
    if isinstance(record, Miss) and not files:
        return
    listed = {*(files if isinstance(record, Miss) else record.files)} - {RECORD}
    in_order = [*listed, RECORD]  # it tells, after a kill in between, whose the other files are
    with explained("delete", location):
        if not location.is_local:
            copies.forget(location)
            copies.prune(location, in_order)
            return
        disk.delete_files(location.local, in_order)
        if not files and location.local.is_dir():
            # Others' files are there: the next artifact takes its place beside them.
            disk.write_file(location.local / RECORD, UNFINISHED)


def discard_below(place: Path | Location, files: Collection[str] = ()) -> None:
    """Delete all artifacts below a directory, and the directories that are then empty.

    Args:
        place: the directory.
        files: see `discard`.

    Raises:
        UserError: something cannot be deleted.
    """
    location = Location.of(place)
    if not location.is_local:
        for name in copies.directories_with(location, RECORD):
            discard(location / name if name else location, files)
        return
    with explained("delete", location):
        for directory, _, there in os.walk(location.local, topdown=False):
            if files or RECORD in there:
                discard(Path(directory), files)
            with suppress(OSError):
                os.rmdir(directory)


def _check_replaceable(location: Location, stage: str) -> None:
    """Refuse to replace anything but an artifact or an empty directory."""
    for pause in LOOKS:  # what another writer moves away while it is listed may look like a part
        time.sleep(pause)
        kind = location.filesystem.get_file_info(location.path).type
        there = names(location) if kind == FileType.Directory else set()
        if kind != FileType.File and (not there or RECORD in there):
            return
    raise UserError(
        f"{location} is not an artifact of an earlier run, and is in the way of the stage "
        f"{stage!r}. Move it elsewhere, or choose another output directory."
    )


def _publish(draft: Path, location: Location, record: _Record) -> Artifact:
    """Have a complete draft take its place, and the place of all else that is there."""
    known = _read_record(location)
    if isinstance(known, _Record) and known.made_as(record):
        present = _verify(location, known)
        if isinstance(present, Artifact):  # another process may be reading it
            return present
    ours = {*(known.files if isinstance(known, _Record) else ()), *record.files, RECORD}
    if location.is_local:
        disk.move_directory(draft, location.local, ours)
        return _artifact(location, location.local, record)
    write_atomic(location / RECORD, UNFINISHED)
    copies.prune(location, ours - {*record.files, RECORD})
    copies.upload(draft, [*record.files, RECORD], location)
    path, damage = _copy(location, record, lambda path: os.rename(draft, path))
    if damage:
        raise OSError(f"{damage}; another process has written there at the same time")
    return _artifact(location, path, record)


def _read_record(location: Location) -> _Record | Miss:
    try:
        text = read(location / RECORD)
        return Miss("absent") if text == UNFINISHED else _parse(text, location)
    except FileNotFoundError:
        return Miss("absent")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Miss(f"damaged: {RECORD} is not as it was written")


def _parse(text: bytes, location: Location) -> _Record:
    entries = parse_json(text)
    check_version(entries.pop("version", VERSION), location / RECORD, VERSION)
    # Records of earlier versions have no checksum.
    expected = entries.pop("checksum", None)
    if expected is not None and expected != fingerprint(entries):
        raise ValueError("the record is not as it was written")
    stage = entries.pop("stage")
    inputs, facts, files = (dict(entries.pop(key)) for key in ("inputs", "facts", "files"))
    if entries != {"fingerprint": fingerprint(inputs)}:
        raise ValueError("the inputs are not as they were written")
    for name in files:
        check_name(name)
    return _Record(stage, inputs, facts, files)


def _verify(location: Location, record: _Record) -> Artifact | Miss:
    """The artifact at `location`, if its files are as the record says."""
    with explained("read", location):
        if location.is_local:
            path, damage = location.local, _damage(location.local, record)
        else:
            path, damage = _copy(
                location,
                record,
                # With the record, as `local_copy` has it: a copy is the same whoever makes it.
                lambda path: copies.download(location, [*record.files, RECORD], path),
            )
    return Miss(f"damaged: {damage}") if damage else _artifact(location, path, record)


def _copy(
    location: Location, record: _Record, fill: Callable[[Path], None]
) -> tuple[Path, str | None]:
    """Where this machine has the files of a remote artifact, and what is wrong with them.

    If they are not there yet, `fill` puts them there.
    """
    with copies.only_copy(location) as path:
        damage = _damage(path, record)
        if damage:
            shutil.rmtree(path, ignore_errors=True)
            fill(path)
            damage = _damage(path, record)
        return path, damage


def _damage(directory: Path, record: _Record) -> str | None:
    for name, expected in record.files.items():
        try:
            check_inside(directory, name)
            if checksum(directory / name) != expected:
                return f"{name} is not as it was written"
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return f"{name} is missing"
        except ValueError as error:
            return str(error)
    return None


def _artifact(location: Location, path: Path, record: _Record) -> Artifact:
    digest = fingerprint(record.files)
    return Artifact(path, record.stage, record.inputs, record.facts, digest, location)


def _flush(directory: Path) -> dict[str, dict[str, Any]]:
    """Flush all below `directory` to the disk, and return the checksum of each file."""
    disk.set_modes(directory)
    entries = sorted(directory.rglob("*"))
    for entry in entries:
        disk.fsync(entry)
    return {
        entry.relative_to(directory).as_posix(): checksum(entry)
        for entry in entries
        if entry.is_file()
    }


def _changed(recorded: Any, wanted: Any, key: str = "") -> list[str]:
    """The keys, dotted, under which two JSON values differ."""
    if not (isinstance(recorded, dict) and isinstance(wanted, dict)):
        return [] if canonical(recorded) == canonical(wanted) else [key]
    changed = []
    for name in sorted(recorded.keys() | wanted.keys()):
        below = f"{key}.{name}" if key else name
        if name in recorded and name in wanted:
            changed += _changed(recorded[name], wanted[name], below)
        else:
            changed.append(below)
    return changed
