"""How things are written on the local disk.

Files and directories are written under another name first, as a draft, and moved to their place
when they are complete. Names of drafts are unique, so two writers of one file do not disturb each
other before the move: a worker that the driver has given up, and its replacement.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)


def draft_name(name: str) -> str:
    """A name, unlike any other, for a draft of `name`."""
    return f".{name}.{uuid4().hex}.tmp"


def is_draft(name: str) -> bool:
    """Whether `name` is one that `draft_name` gives."""
    return _DRAFT.fullmatch(name) is not None


def write_file(path: Path, content: bytes) -> None:
    """Put a file, flushed to the disk, in the place of the one there may be.

    Raises:
        OSError: it cannot be written. The old one is there still.
    """
    draft = path.with_name(draft_name(path.name))
    try:
        draft.write_bytes(content)
        fsync(draft)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def move_directory(draft: Path, path: Path, ours: Collection[str] = ()) -> None:
    """Put a complete directory in the place of the one there may be.

    No file system swaps directories portably: for a moment, between two renames, there is none.
    The files of the old one that are not `ours` are moved into the new one.

    Raises:
        OSError: it cannot be moved. The old one is there still, and so is `draft`.
    """
    old = path.with_name(draft_name(path.name))
    try:
        while True:
            with suppress(FileNotFoundError):
                os.rename(path, old)
            try:
                os.rename(draft, path)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Another writer came between the two renames: now its directory is the old one.
                shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        with suppress(OSError):
            os.rename(old, path)
        raise
    fsync(path.parent)
    with suppress(FileNotFoundError):
        delete_files(old, ours)
        _move_files(old, path)


def delete_files(directory: Path, names: Collection[str]) -> None:
    """Delete files, in this order, and drafts in a directory, and directories left empty."""
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            (directory / name).unlink()
    for place, _, files in os.walk(directory, topdown=False):
        for name in filter(is_draft, files):
            with suppress(OSError):
                os.unlink(os.path.join(place, name))
        with suppress(OSError):
            os.rmdir(place)


def _move_files(source: Path, target: Path) -> None:
    """Move what is in a directory to another one, which lacks it, and delete the first."""
    for place, _, files in os.walk(source, topdown=False):
        for name in files:
            here = Path(place, name)
            there = target / here.relative_to(source)
            with suppress(OSError):
                there.parent.mkdir(parents=True, exist_ok=True)
                if not there.exists():
                    os.rename(here, there)
        with suppress(OSError):
            os.rmdir(place)


def set_modes(directory: Path, pattern: str = "*") -> None:
    """Give files the mode that the umask allows, as of any new file; safetensors writes 0600.

    Args:
        directory: with the files, at any depth. Those with several names are left as they are: the
            other names may be others' files.
        pattern: which files.
    """
    probe = directory / draft_name("mode")
    probe.touch()
    try:
        mode = probe.stat().st_mode & 0o666
    finally:
        probe.unlink()
    for entry in directory.rglob(pattern):
        status = entry.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.chmod(entry, mode)


def is_narrow(path: Path, directory: Path) -> bool:
    """Whether a file keeps readers out that may read in a directory."""
    readers = stat.S_IRGRP | stat.S_IROTH
    return bool(directory.stat().st_mode & ~path.stat().st_mode & readers)


def fsync(path: Path) -> None:
    """Flush a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
