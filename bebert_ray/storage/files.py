"""Single files and names, wherever they are, and the lock of a directory."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow.fs import FileSelector, FileType, copy_files

from bebert_ray.errors import UserError
from bebert_ray.storage import copies, disk
from bebert_ray.storage.location import Location, explained, make_directory, unusable


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
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unusable("read", location, error) from error


def exists(place: Path | Location) -> bool:
    """Whether there is such a file or directory.

    Raises:
        UserError: there is no telling.
    """
    location = Location.of(place)
    with explained("read", location):
        if location.is_local:
            return location.local.exists()
        info = location.filesystem.get_file_info(location.path)
        return bool(info.type != FileType.NotFound)


def names(place: Path | Location) -> set[str]:
    """The names in a directory, but for drafts; none if it is not there.

    Raises:
        UserError: it is not a directory, or cannot be read.
    """
    location = Location.of(place)
    with explained("read", location):
        if location.is_local:
            with suppress(FileNotFoundError):
                return set(itertools.filterfalse(disk.is_draft, os.listdir(location.local)))
            return set()
        selector = FileSelector(location.path, allow_not_found=True)
        return {info.base_name for info in location.filesystem.get_file_info(selector)}


def keep(place: Path | Location, content: bytes) -> bool:
    """Have a file hold `content`: write it, unless it does already.

    Returns:
        Whether it did.

    Raises:
        UserError: it cannot be read or written.
    """
    with suppress(FileNotFoundError):
        if read(place) == content:
            return True
    write_atomic(place, content)
    return False


def write_atomic(place: Path | Location, content: str | bytes) -> None:
    """Write a file such that any reader, at any time, sees the old content or the new, complete.

    Text is written as UTF-8. Parent directories are made, but not `Location.root`.

    Raises:
        UserError: it cannot be written. The old content is there still.
    """
    location = Location.of(place)
    content = content.encode() if isinstance(content, str) else content

    def write_stream() -> None:
        # An object store shows a file once it is complete.
        with location.filesystem.open_output_stream(location.path, compression=None) as stream:
            stream.write(content)

    with explained("write", location):
        if location.is_local:
            make_directory(location.parent)
            disk.write_file(location.local, content)
        else:
            copies.put(location, write_stream)


def remove(place: Path | Location) -> None:
    """Delete a file, or a directory with all that is in it. It need not be there.

    Raises:
        UserError: it cannot be deleted.
    """
    location = Location.of(place)
    with explained("delete", location), suppress(FileNotFoundError):
        if not location.is_local:
            copies.forget(location)
            if location.filesystem.get_file_info(location.path).type == FileType.Directory:
                location.filesystem.delete_dir(location.path)
            else:
                location.filesystem.delete_file(location.path)
        elif location.local.is_dir() and not location.local.is_symlink():
            shutil.rmtree(location.local)
        else:
            location.local.unlink()


def local_copy(place: Path | Location) -> Path:
    """Where this machine has the files of a directory, for reading: itself, or as a copy.

    Raises:
        UserError: it cannot be read, or not be copied.
    """
    location = Location.of(place)
    if location.is_local:
        return location.local
    with explained("read", location), copies.only_copy(location) as path:
        if not path.exists():
            draft = path.with_name(disk.draft_name(path.name))
            draft.mkdir()
            copy_files(location.path, str(draft), source_filesystem=location.filesystem)
            os.rename(draft, path)
        return path


def sweep(place: Path | Location) -> None:
    """Delete, anywhere below a directory, the drafts that killed writers have left on this machine.

    Hold the `lock` of the directory. A writer that lives on nevertheless fails. What cannot be
    deleted stays, and does no harm.
    """
    location = Location.of(place)
    top = location.local if location.is_local else copies.home(location)
    for directory, directories, files in os.walk(top):
        for name in filter(disk.is_draft, files):
            with suppress(OSError):
                os.unlink(os.path.join(directory, name))
        for name in filter(disk.is_draft, directories):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)


def link(source: Path, target: Path | Location) -> None:
    """Have an artifact on the local disk appear at a second place, complete or not at all.

    It takes the place of what is there of the same names; other files stay.

    Hard links will do: artifacts are never written to, only replaced. Where the disk has none, the
    files are copied.

    Raises:
        UserError: the disk is full, permission is missing or the like.
    """
    location = Location.of(target)
    place = location.local
    draft = place.with_name(disk.draft_name(place.name))
    with explained("write", location):
        make_directory(location.parent)
        shutil.copytree(source, draft, copy_function=link_or_copy)
        files = {path.relative_to(source).as_posix() for path in source.rglob("*")}
        disk.move_directory(draft, place, files)


@contextmanager
def lock(place: Path | Location, patience: float = 0.5) -> Iterator[None]:
    """Hold a directory, made if need be, for this process; the end of the process frees it.

    Only a local directory can be held, or one on a shared disk. Object stores have no locks: there
    it is up to people that no two runs write to one place.

    Args:
        place: the directory.
        patience: seconds to wait for the process that holds it, which may be about to end, or only
            look who holds it, see `lock_holder`.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    location = Location.of(place)
    if not location.is_local:
        yield
        return
    directory = location.local
    with explained("lock", location):
        directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(directory / copies.LOCK, flags, 0o666)
    try:
        with explained("lock", location):
            deadline = time.monotonic() + patience
            while not _taken(file):
                if time.monotonic() >= deadline:
                    raise _in_use(directory, _holder(file))
                time.sleep(0.05)
            # For people only. The file stays: deleting it would race with the next process.
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(file)


def check_unlocked(place: Path | Location) -> None:
    """Refuse a directory whose lock another process holds; changes nothing.

    Raises:
        UserError: another process holds it.
    """
    location = Location.of(place)
    if not location.is_local:
        return
    with suppress(OSError):  # not there yet; what else is wrong is found when it is locked
        if holder := lock_holder(location.local):
            raise _in_use(location.local, holder)


def lock_holder(directory: Path) -> str | None:
    """The process that holds a directory, see `lock`, for people; None if none does.

    Raises:
        OSError: the lock cannot be looked at; FileNotFoundError: nobody has held the directory yet.
    """
    file = os.open(directory / copies.LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # A shared lock: others may look at the same time.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(file)
    finally:
        os.close(file)
    return None


def _holder(file: int) -> str:
    return os.pread(file, 500, 0).decode(errors="replace") or "another process"


def _in_use(directory: Path, holder: str) -> UserError:
    return UserError(
        f"{directory} is in use by {holder}. Wait for it to end, or choose another output "
        "directory."
    )


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Have a file appear at a second place, as a hard link where the disk allows it.

    Only for files that are replaced, never written to. A file that others may not read, though the
    umask lets them, is copied.
    """
    try:
        if disk.is_narrow(Path(source), Path(target).parent):
            raise PermissionError
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _taken(file: int) -> bool:
    """Take the lock of an open file, unless another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
