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


def move_directory(draft: Path, path: Path) -> None:
    """Put a complete directory in the place of the one there may be.

    No file system swaps directories portably: for a moment, between two renames, there is none.

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
    shutil.rmtree(old, ignore_errors=True)


def fsync(path: Path) -> None:
    """Flush a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
