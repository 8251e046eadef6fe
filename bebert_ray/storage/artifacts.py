"""How artifacts lie on disk. Nothing else in the package knows.

An artifact is what a finished stage leaves behind: a directory of files and `artifact.json`, the
record of what made it and what is in it,

    {"stage": ..., "inputs": {...}, "fingerprint": sha256 of the inputs,
     "files": {name: {"sha256": ..., "bytes": ...}}, "facts": {...}}

A stage asks `find` for an artifact made from its inputs, and has `commit` make one if there is
none. Whatever goes wrong in between, a killed process and a full disk included, `find` sees the
artifact of before or the new one, complete.

Any number of processes may `find`, one at a time may `commit`: hold the `lock` of the directory
above, such as the run's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow.fs import FileType

from bebert_ray.errors import RunError, UserError
from bebert_ray.storage import copies, disk
from bebert_ray.storage.files import exists, names, read, write_atomic
from bebert_ray.storage.hashing import canonical, checksum, fingerprint
from bebert_ray.storage.location import Location, explained

RECORD = "artifact.json"
UNFINISHED = b'"being written"'  # the record, in an object store, while the files are copied


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    Attributes:
        path: the directory its files are in, on this machine.
        stage: the stage that made it.
        inputs: what it was made from, as JSON gives it back.
        facts: what its stage has to say of it: metrics, seconds, versions.
        digest: hash of the names and contents of its files. In a later stage's inputs it stands
            for this artifact: made anew with the same content, it leaves that stage finished.
        location: where it is, for all machines.
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


@dataclass(frozen=True)
class _Record:
    """What `artifact.json` says; `files` holds the checksum of each, by name."""

    stage: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]


def find(place: Path | Location, inputs: dict[str, Any]) -> Artifact | Miss:
    """The artifact at `place`, if it was made from `inputs` and every file is as it was written.

    Reads and hashes every file; what is in an object store is copied to this machine first, if the
    copy of an earlier time is not what is there now.

    Raises:
        UserError: what is there cannot be read.
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
    """The artifact at `place`, whatever it was made from, if every file is as it was written.

    Raises:
        RunError: it is not there, or damaged.
        UserError: what is there cannot be read.
    """
    location = Location.of(place)
    record = _read_record(location)
    found = record if isinstance(record, Miss) else _verify(location, record)
    if isinstance(found, Miss):
        raise RunError(
            f"{location} cannot be used: {found.reason}; give the same command again, and it is "
            "made anew"
        )
    return found


def commit(
    place: Path | Location,
    stage: str,
    inputs: dict[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
) -> Artifact:
    """Make the artifact at `place`, in place of the one there may be.

    The files are written into a draft beside it, the record last, everything is flushed to the
    disk, and only then does the directory take its place. Into an object store the files are
    copied from a draft on the local disk, again the record last; until then the artifact is absent.

    Args:
        place: the artifact's directory; its parents are made.
        stage: name of the stage.
        inputs: all that the outcome depends on, as JSON.
        write: writes the files into the directory given to it, and returns the facts, as JSON.

    Raises:
        UserError: the disk is full, permission is missing or the like, or `place` holds something
            that is not an artifact. What `find` saw there it sees still, or the new artifact; in
            an object store maybe none.
        TypeError, ValueError: `inputs` or the facts are not JSON.
    """
    location = Location.of(place)
    head = {"stage": stage, "inputs": inputs, "fingerprint": fingerprint(inputs)}
    with explained("write", location):
        if not _replaceable(location):
            raise UserError(
                f"{location} is not an artifact of an earlier run, and is in the way of the stage "
                f"{stage!r}. Move it elsewhere, or choose another output directory."
            )
        home = location.local if location.is_local else copies.home(location)
        draft = home.with_name(disk.draft_name(home.name))
        try:
            draft.mkdir(parents=True)
            facts = dict(write(draft))
            files = _flush(draft)
            text = json.dumps(
                head | {"files": files, "facts": facts}, indent=2, ensure_ascii=False
            ).encode()
            disk.write_file(draft / RECORD, text)
            if location.is_local:
                disk.move_directory(draft, home)
            else:
                _publish(draft, location, [*files, RECORD])
                home = copies.keep_copy(draft, location)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return _artifact(location, home, _parse(text))


def _publish(draft: Path, location: Location, names: list[str]) -> None:
    """Copy the files of an artifact, the record last, in place of all that is at `location`."""
    write_atomic(location / RECORD, UNFINISHED)
    copies.prune(location, names)
    copies.upload(draft, names, location)


def _replaceable(location: Location) -> bool:
    """Whether nothing but an artifact would be lost with `location`."""
    if exists(location / RECORD):
        return True
    kind = location.filesystem.get_file_info(location.path).type
    return kind == FileType.NotFound or (kind == FileType.Directory and not names(location))


def _read_record(location: Location) -> _Record | Miss:
    try:
        text = read(location / RECORD)
    except FileNotFoundError:
        return Miss("absent")
    if text == UNFINISHED:
        return Miss("absent")
    try:
        return _parse(text)
    except (ValueError, KeyError, TypeError):
        return Miss(f"damaged: {RECORD} is not a record of an artifact")


def _parse(text: bytes) -> _Record:
    entries = json.loads(text)
    inputs, facts, files = (dict(entries[key]) for key in ("inputs", "facts", "files"))
    if entries["fingerprint"] != fingerprint(inputs):
        raise ValueError("the inputs are not those that were written")
    for name in map(PurePosixPath, files):
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{name} is no name of a file in the artifact")
    return _Record(entries["stage"], inputs, facts, files)


def _verify(location: Location, record: _Record) -> Artifact | Miss:
    """The artifact at `location`, if its files are those of the record."""
    with explained("read", location):
        if location.is_local:
            path, damage = location.local, _damage(location.local, record)
        else:
            path, damage = _verified_copy(location, record)
    return Miss(f"damaged: {damage}") if damage else _artifact(location, path, record)


def _verified_copy(location: Location, record: _Record) -> tuple[Path, str | None]:
    """The local copy of a remote artifact, made if need be, and what is wrong with it."""
    copy = copies.find_copy(location)
    if _damage(copy, record) is None:
        return copy, None
    draft = copy.with_name(disk.draft_name(copy.name))
    try:
        draft.mkdir(parents=True)
        copies.download(location, record.files, draft)
        damage = _damage(draft, record)
        if damage is None:
            copy = copies.keep_copy(draft, location)
        return copy, damage
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _damage(directory: Path, record: _Record) -> str | None:
    """What is wrong with the files in `directory`, if something is."""
    for name, expected in record.files.items():
        try:
            if checksum(directory / name) != expected:
                return f"{name} is not as it was written"
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"{name} is missing"
    return None


def _artifact(location: Location, path: Path, record: _Record) -> Artifact:
    digest = fingerprint(record.files)
    return Artifact(path, record.stage, record.inputs, record.facts, digest, location)


def _flush(directory: Path) -> dict[str, dict[str, Any]]:
    """Flush all below `directory` to the disk, and return the checksum of each file."""
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
