"""Directories of an object store, and their copies on this machine.

The copy of a directory is in a per-user cache, under a name made of how the store lists its files,
size and time of change of each: what is written there since, by whomever, is fetched anew. The
cache mirrors the stores, and what is removed there is removed here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileType, copy_files

from bebert_ray.paths import expand
from bebert_ray.storage.hashing import fingerprint
from bebert_ray.storage.location import Location

LOCK = ".lock"


def home(location: Location) -> Path:
    """Where copies of `location` are, if there are any.

    Raises:
        UserError: neither XDG_CACHE_HOME nor a home directory is known.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or expand("~/.cache")
    parts = urlsplit(location.text)
    store = fingerprint([parts.scheme, parts.netloc, parts.query])[:16]
    return Path(cache, "bebert_ray", store, location.path.lstrip("/"))


@contextmanager
def only_copy(location: Location) -> Iterator[Path]:
    """Where the copy of `location`, as it is now, is or has to go; all other copies are deleted.

    The processes of a machine take turns: the second one finds the copy of the first.

    Raises:
        OSError: the store does not answer, or the cache cannot be written to.
    """
    files = sorted(_list(location).items())
    name = fingerprint([[name, info.size, info.mtime_ns] for name, info in files])
    directory = home(location)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for entry in directory.iterdir():
            if entry.name not in (LOCK, name):
                shutil.rmtree(entry)
        yield directory / name


def forget(location: Location) -> None:
    """Delete all copies of what is at `location`, and below."""
    shutil.rmtree(home(location), ignore_errors=True)


def download(location: Location, names: Iterable[str], directory: Path) -> None:
    """Copy the named files, those that are there, into a local directory.

    Raises:
        OSError: the store does not answer, or the disk is full.
    """
    there = _list(location)
    for name in there.keys() & set(names):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_files(there[name].path, str(path), source_filesystem=location.filesystem)


def upload(directory: Path, names: Iterable[str], location: Location) -> None:
    """Copy the named files of a local directory, in this order.

    Raises:
        OSError: the store does not answer, or does not allow it.
    """
    for name in names:
        source, target, store = str(directory / name), location / name, location.filesystem
        put(target, partial(copy_files, source, target.path, destination_filesystem=store))


def put(location: Location, write: Callable[[], None]) -> None:
    """Have a file written, and its directory made, where there is such a thing, if need be."""
    try:
        write()
    except FileNotFoundError:
        location.filesystem.create_dir(location.parent.path)
        write()


def prune(location: Location, names: Collection[str]) -> None:
    """Delete the named files below `location`, as far as they are there, in this order.

    Raises:
        OSError: the store does not answer, or does not allow it.
    """
    there = _list(location)
    for name in names:
        if name in there:
            location.filesystem.delete_file(there[name].path)


def directories_with(location: Location, name: str) -> list[str]:
    """The directories below `location` that hold a file of this name; itself is the empty text."""
    paths = (PurePosixPath(path) for path in _list(location))
    return [str(path.parent).removeprefix(".") for path in paths if path.name == name]


def _list(location: Location) -> dict[str, FileInfo]:
    """The files below `location`, by name from there."""
    selector = FileSelector(location.path, recursive=True, allow_not_found=True)
    return {
        info.path.removeprefix(location.path).lstrip("/"): info
        for info in location.filesystem.get_file_info(selector)
        if info.type == FileType.File
    }
