"""Copies, on this machine, of directories in object stores.

The copy of a directory is in a per-user cache, under a name that says how the store lists the
files, size and time of change of each: whatever is written there since, by whomever, is fetched
anew. The cache mirrors the stores, so that what is deleted there is deleted here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow.fs import FileInfo, FileSelector, FileType, copy_files

from bebert_ray.storage import disk
from bebert_ray.storage.hashing import fingerprint
from bebert_ray.storage.location import Location


def home(location: Location) -> Path:
    """Where copies of `location` are: a local directory, there or not."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parts = urlsplit(location.text)
    store = fingerprint([parts.scheme, parts.netloc, parts.query])[:16]
    return Path(cache, "bebert_ray", store, location.path.lstrip("/"))


def find_copy(location: Location) -> Path:
    """Where the copy of `location`, as it is now, is or has to go.

    Raises:
        OSError: the store does not answer.
    """
    listing = [[name, info.size, info.mtime_ns] for name, info in sorted(_list(location).items())]
    return home(location) / fingerprint(listing)


def keep_copy(draft: Path, location: Location) -> Path:
    """Make the directory `draft` the copy of `location` as it is now, the only one.

    Raises:
        OSError: the store does not answer, or the directory cannot be moved.
    """
    copy = find_copy(location)
    copy.parent.mkdir(parents=True, exist_ok=True)
    disk.move_directory(draft, copy)
    for entry in copy.parent.iterdir():
        if entry != copy and not disk.is_draft(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
    return copy


def forget(location: Location) -> None:
    """Delete all copies of what is at and below `location`."""
    if not location.is_local:
        shutil.rmtree(home(location), ignore_errors=True)


def download(location: Location, names: Iterable[str], directory: Path) -> None:
    """Copy the named files, those that are there, into a local directory.

    Raises:
        OSError: the store does not answer, or the disk is full.
    """
    there = _list(location)
    for name in names:
        if name in there:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_files(there[name].path, str(path), source_filesystem=location.filesystem)


def upload(directory: Path, names: Iterable[str], location: Location) -> None:
    """Copy the named files of a local directory to `location`.

    Raises:
        OSError: the store does not answer, or does not allow it.
    """
    for name in names:
        source, target, store = str(directory / name), location / name, location.filesystem
        put(target, partial(copy_files, source, target.path, destination_filesystem=store))


def put(location: Location, write: Callable[[], None]) -> None:
    """Have a file written; make its directory only where there are such things, unlike in S3."""
    try:
        write()
    except FileNotFoundError:
        location.filesystem.create_dir(location.parent.path)
        write()


def prune(location: Location, names: Collection[str]) -> None:
    """Delete all files below `location` but the named ones.

    Raises:
        OSError: the store does not answer, or does not allow it.
    """
    for name in _list(location).keys() - set(names):
        location.filesystem.delete_file((location / name).path)


def _list(location: Location) -> dict[str, FileInfo]:
    """The files below `location`, by name from there."""
    selector = FileSelector(location.path, recursive=True, allow_not_found=True)
    return {
        info.path.removeprefix(location.path).lstrip("/"): info
        for info in location.filesystem.get_file_info(selector)
        if info.type == FileType.File
    }
