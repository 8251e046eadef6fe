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

import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from bebert_ray.errors import UserError

RECORD = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    Attributes:
        path: the directory its files are in.
        stage: the stage that made it.
        inputs: what it was made from, as JSON gives it back.
        facts: what its stage has to say of it: metrics, seconds, versions.
        digest: hash of the names and contents of its files. In a later stage's inputs it stands
            for this artifact: made anew with the same content, it leaves that stage finished.
    """

    path: Path
    stage: str
    inputs: dict[str, Any]
    facts: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Miss:
    """There is no such artifact, and why: "absent", "inputs changed: …" or "damaged: …"."""

    reason: str


def fingerprint(value: Any) -> str:
    """SHA-256, in hex, of a value's canonical JSON: keys sorted, tuples as lists, no spaces.

    Raises:
        TypeError, ValueError: `value` is not JSON, for which NaN and infinity are not numbers.
    """
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def hash_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hex, of named arrays: name, dtype, shape and bytes of each, in order of name.

    Raises:
        ValueError: an array holds Python objects, which have no bytes of their own.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} of dtype {array.dtype} cannot be hashed")
        digest.update(_canonical([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def find(path: Path, inputs: dict[str, Any]) -> Artifact | Miss:
    """The artifact at `path`, if it was made from `inputs` and every file is as it was written.

    Reads and hashes every file.

    Raises:
        UserError: what is there cannot be read.
        TypeError, ValueError: `inputs` is not JSON.
    """
    wanted = json.loads(_canonical(inputs))
    try:
        _settle(path)
        record = (path / RECORD).read_bytes()
        try:
            artifact, files = _parse(path, record)
            changed = _changed(artifact.inputs, wanted)
        except (ValueError, KeyError, TypeError):
            return Miss(f"damaged: {RECORD} is not a record of an artifact")
        if changed:
            return Miss(f"inputs changed: {', '.join(changed)}")
        for name, expected in files.items():
            if not (path / name).is_file():
                return Miss(f"damaged: {name} is missing")
            if _checksum(path / name) != expected:
                return Miss(f"damaged: {name} is not as it was written")
        return artifact
    except FileNotFoundError:
        return Miss("absent")
    except OSError as error:
        raise _unusable("read", path, error) from error


def commit(
    path: Path,
    stage: str,
    inputs: dict[str, Any],
    write: Callable[[Path], Mapping[str, Any]],
) -> Artifact:
    """Make the artifact at `path`, in place of the one there may be.

    The files are written into `<path>.tmp`, the record last, everything is flushed to the disk,
    and only then does the directory take its place. An older artifact is moved aside to
    `<path>.old` for that moment; should the process die right then, the next `find` or `commit`
    completes the move.

    Args:
        path: the artifact's directory; its parents are made.
        stage: name of the stage.
        inputs: all that the outcome depends on, as JSON.
        write: writes the files into the directory given to it, and returns the facts, as JSON.

    Raises:
        UserError: the disk is full, permission is missing or the like, or `path` holds something
            that is not an artifact. What `find` saw at `path` it sees still, or the new artifact.
        TypeError, ValueError: `inputs` or the facts are not JSON.
    """
    head = {"stage": stage, "inputs": inputs, "fingerprint": fingerprint(inputs)}
    draft, old = _draft(path), _old(path)
    try:
        _settle(path)
        if not _replaceable(path):
            raise UserError(
                f"{path} is not an artifact of an earlier run, and is in the way of the stage "
                f"{stage!r}. Move it elsewhere, or choose another output directory."
            )
        for leftover in (draft, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        occupied = path.exists()
        try:
            draft.mkdir(parents=True)
            facts = dict(write(draft))
            record = head | {"files": _flush(draft), "facts": facts}
            text = json.dumps(record, indent=2, ensure_ascii=False).encode()
            _write_atomic(draft / RECORD, text)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if occupied:
            os.rename(path, old)
        _settle(path)
        _fsync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _unusable("write", path, error) from error
    return _parse(path, text)[0]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file such that any reader, at any time, sees the old content or the new, complete.

    Text is written as UTF-8. Parent directories are made.

    Raises:
        UserError: it cannot be written. The old content is there still.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomic(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise _unusable("write", path, error) from error


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold `directory`, made if need be, for this process; the end of the process frees it.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unusable("lock", directory, error) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # For people only. The file stays: to remove it would race with whoever comes next.
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BlockingIOError:
            holder = os.pread(file, 500, 0).decode() or "another process"
            raise UserError(
                f"{directory} is in use by {holder}. Wait for it to end, or choose another "
                "output directory."
            ) from None
        except OSError as error:
            raise _unusable("lock", directory, error) from error
        yield
    finally:
        os.close(file)


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")


def _settle(path: Path) -> None:
    """The last move of a commit: a draft that has its record takes its place, once that is free.

    Whoever comes by makes it, should the process that wrote the draft have died before.
    """
    if not path.exists() and (_draft(path) / RECORD).exists():
        with suppress(FileNotFoundError):  # two came by at once: the other one made it
            os.rename(_draft(path), path)


def _replaceable(path: Path) -> bool:
    """Whether nothing but an artifact would be lost with `path`."""
    if not path.exists() or (path / RECORD).exists():
        return True
    return path.is_dir() and not any(path.iterdir())


def _parse(path: Path, record: bytes) -> tuple[Artifact, dict[str, Any]]:
    """The artifact at `path` and the checksums of its files, out of its record."""
    entries = json.loads(record)
    files, inputs, facts = (dict(entries[key]) for key in ("files", "inputs", "facts"))
    return Artifact(path, entries["stage"], inputs, facts, fingerprint(files)), files


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def _flush(directory: Path) -> dict[str, dict[str, Any]]:
    """Flush all below `directory` to the disk, and return the checksum of each file."""
    entries = sorted(directory.rglob("*"))
    for entry in entries:
        _fsync(entry)
    return {
        entry.relative_to(directory).as_posix(): _checksum(entry)
        for entry in entries
        if entry.is_file()
    }


def _fsync(path: Path) -> None:
    """Flush a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_atomic(path: Path, content: bytes) -> None:
    draft = _draft(path)
    try:
        draft.write_bytes(content)
        _fsync(draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _changed(recorded: Any, wanted: Any, key: str = "") -> list[str]:
    """The keys, dotted, under which two JSON values differ."""
    if not (isinstance(recorded, dict) and isinstance(wanted, dict)):
        return [] if _canonical(recorded) == _canonical(wanted) else [key]
    changed = []
    for name in sorted(recorded.keys() | wanted.keys()):
        below = f"{key}.{name}" if key else name
        if name in recorded and name in wanted:
            changed += _changed(recorded[name], wanted[name], below)
        else:
            changed.append(below)
    return changed


def _canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _unusable(verb: str, path: Path, error: Exception) -> UserError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    culprit = getattr(error, "filename", None)
    if culprit and Path(culprit) != path:
        reason += f" ({culprit})"
    return UserError(
        f"cannot {verb} {path}: {reason}. Make room or set the permissions right, or choose "
        "another output directory."
    )
