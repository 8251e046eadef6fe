"""Single files and names, wherever they are, and the lock of a directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow.fs import FileSelector, FileType

from bebert_ray.errors import UserError
from bebert_ray.storage import copies, disk
from bebert_ray.storage.location import Location, explained, unusable


def read(place: Path | Location) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it cannot be read.
    """
    location = Location.of(place)
    try:
        if location.is_local:
            return location.local.read_bytes()
        with location.filesystem.open_input_stream(location.path, compression=None) as stream:
            return stream.readall()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unusable("read", location, error) from error


def exists(place: Path | Location) -> bool:
    """Whether there is such a file or directory.

    Raises:
        UserError: one cannot know.
    """
    location = Location.of(place)
    with explained("read", location):
        return location.filesystem.get_file_info(location.path).type != FileType.NotFound


def names(place: Path | Location) -> set[str]:
    """The names in a directory; none if it is not there.

    Raises:
        UserError: it is not a directory, or cannot be read.
    """
    location = Location.of(place)
    with explained("read", location):
        selector = FileSelector(location.path, allow_not_found=True)
        return {entry.base_name for entry in location.filesystem.get_file_info(selector)}


def write_atomic(place: Path | Location, content: str | bytes) -> None:
    """Write a file such that any reader, at any time, sees the old content or the new, complete.

    Text is written as UTF-8. Parent directories are made.

    Raises:
        UserError: it cannot be written. The old content is there still.
    """
    location = Location.of(place)
    content = content.encode() if isinstance(content, str) else content
    with explained("write", location):
        if location.is_local:
            location.local.parent.mkdir(parents=True, exist_ok=True)
            disk.write_file(location.local, content)
            return
        copies.put(location, lambda: _write_stream(location, content))


def remove(place: Path | Location) -> None:
    """Delete a file, or a directory with all in it. That it is not there is fine.

    Raises:
        UserError: it cannot be deleted.
    """
    location = Location.of(place)
    with explained("delete", location), suppress(FileNotFoundError):
        kind = location.filesystem.get_file_info(location.path).type
        if kind == FileType.Directory:
            location.filesystem.delete_dir(location.path)
            copies.forget(location)
        elif kind != FileType.NotFound:
            location.filesystem.delete_file(location.path)


def sweep(place: Path | Location) -> None:
    """Delete, anywhere below a directory, the drafts of writers that were killed.

    Hold its `lock`. A writer that is still alive fails.

    Raises:
        UserError: something cannot be read or deleted.
    """
    location = Location.of(place)
    root = location.local if location.is_local else copies.home(location)
    with explained("clean up", location):
        for directory, below, files in os.walk(root):
            for name in filter(disk.is_draft, files):
                Path(directory, name).unlink(missing_ok=True)
            for name in filter(disk.is_draft, below):
                shutil.rmtree(Path(directory, name))
            below[:] = [name for name in below if not disk.is_draft(name)]


@contextmanager
def lock(place: Path | Location) -> Iterator[None]:
    """Hold a directory, made if need be, for this process; the end of the process frees it.

    Only local ones can be held, those on a shared disk among them: object stores have no locks,
    and there it is up to people that two runs do not write to one place.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    location = Location.of(place)
    if not location.is_local:
        yield
        return
    directory = location.local
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unusable("lock", location, error) from error
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
            raise unusable("lock", location, error) from error
        yield
    finally:
        os.close(file)


def _write_stream(location: Location, content: bytes) -> None:
    # Object stores show a file once its stream is closed.
    with location.filesystem.open_output_stream(location.path, compression=None) as stream:
        stream.write(content)
