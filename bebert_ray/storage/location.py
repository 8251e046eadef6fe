"""Where something is: a place in a file system, be it the local one or an object store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from pyarrow.fs import FileSystem, LocalFileSystem
from safetensors import SafetensorError

from bebert_ray.errors import UserError
from bebert_ray.paths import check_no_secret, check_utf8, expand, hidden


@dataclass(frozen=True)
class Location:
    """A file or directory, there or not, in a pyarrow file system.

    Two locations are equal if they show the same; `parse(str(location))` gives it back.

    Attributes:
        filesystem: the file system it is in.
        path: its name in there.
        text: what people call it: the absolute path if it is local, the URI if not.
        root: the local directory, this one or above, that writers must find there; they make the
            directories below it, and never it again. None: they make all that are missing.
    """

    filesystem: FileSystem = field(compare=False, repr=False)
    path: str = field(compare=False, repr=False)
    text: str
    root: str | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def parse(text: str) -> Location:
        """The location that a path, relative ones to the working directory, or a URI names.

        A leading `~` is the home directory.

        Raises:
            UserError: the text holds what is no path or may be a secret, a home directory is not
                known, the URI is wrong or names no bucket, or there is no file system of its kind.
        """
        if not text.strip():
            raise UserError("a path or a URI is empty; was a variable of the shell not set?")
        check_no_secret(text)
        if "\0" in text:
            raise UserError(f"{text[:100]!r} holds a NUL byte; give a path or a URI")
        if "://" not in text:
            return Location.of(Path(expand(text)))
        if "#" in text or not text.isprintable():
            raise UserError(
                f"{ascii(text)[:200]} cannot be used: a URI holds neither # nor control characters;"
                " write %23 for #"
            )
        try:
            filesystem, path = FileSystem.from_uri(text)
        except (OSError, ValueError) as error:
            reason = hidden(str(error).splitlines()[0])[:200]
            raise UserError(
                f"{hidden(text)[:200]} cannot be used: {reason}; give a directory or a URI "
                "such as s3://bucket/run (also gs, abfs, hdfs, file)"
            ) from error
        if isinstance(filesystem, LocalFileSystem):
            if urlsplit(text).query:
                raise UserError(f"{text[:200]} has a part after ?; write %3F if a name has one")
            return Location.of(Path(path))
        if not path.strip("/"):
            raise UserError(f"{text} names no bucket or directory; give one, as s3://bucket/run")
        parts = urlsplit(text)
        uri = urlunsplit(parts._replace(path=parts.path.rstrip("/")))
        return Location(filesystem, path.rstrip("/"), uri)

    @staticmethod
    def of(place: Path | Location) -> Location:
        """The location of a local path; a location as it is.

        Raises:
            UserError: the path, or the working directory where it is relative, is not UTF-8.
        """
        if isinstance(place, Location):
            return place
        path = str(place.absolute())
        check_utf8(path)
        return Location(LocalFileSystem(), path, path)

    def __str__(self) -> str:
        return self.text

    def rooted(self) -> Location:
        """The same directory, which writers must find there, and do not make again."""
        return replace(self, root=self.path) if self.is_local else self

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return replace(Location.of(self.local / name), root=self.root)
        parts = urlsplit(self.text)
        uri = urlunsplit(parts._replace(path=f"{parts.path}/{quote(name)}"))
        return Location(self.filesystem, f"{self.path}/{name}", uri)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Location:
        """The directory it is in."""
        if self.is_local:
            return replace(Location.of(self.local.parent), root=self.root)
        parts = urlsplit(self.text)
        uri = urlunsplit(parts._replace(path=parts.path.rpartition("/")[0]))
        return Location(self.filesystem, self.path.rpartition("/")[0], uri)

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine, or one that looks like it."""
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def local(self) -> Path:
        """Its path, if it is local.

        Raises:
            RuntimeError: it is not.
        """
        if not self.is_local:
            raise RuntimeError(f"{self} is not on the local disk")
        return Path(self.path)


def make_directory(location: Location) -> None:
    """Make a local directory that may be there; in an object store there are none.

    Below `Location.root` it is made step by step, and through no symbolic link.

    Raises:
        FileNotFoundError: the root is gone.
        OSError: it cannot be made.
    """
    if not location.is_local:
        return
    root = None if location.root is None else Path(location.root)
    if root is None or not location.local.is_relative_to(root):
        try:
            location.local.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(
                errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(location.local)
            ) from None
        return
    if not root.is_dir():
        raise FileNotFoundError(errno.ENOENT, _GONE, str(root))
    place = root
    for part in location.local.relative_to(root).parts:
        place /= part
        if place.is_symlink():
            raise OSError(errno.ELOOP, "is a symbolic link, and is not written through", str(place))
        try:
            with suppress(FileExistsError):
                place.mkdir()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, _GONE, str(root)) from None
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(place))


_GONE = "the directory is gone, and is not made again; put it back and give the command again"


@contextmanager
def explained(verb: str, location: Location) -> Iterator[None]:
    """Tell people of errors of the file system: what could not be done where, and what to do.

    Raises:
        UserError: in place of an OSError, or of safetensors' error, which is how a full disk shows.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unusable(verb, location, error) from error


def unusable(verb: str, location: Location, error: Exception) -> UserError:
    """The error for people that `error` amounts to."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    culprit = getattr(error, "filename", None)
    if culprit and str(culprit) != location.path:
        reason += f" ({culprit})"
    if reason.startswith(_GONE):
        return UserError(f"cannot {verb} {location}: {reason}")
    if location.is_local:
        todo = "Make room or set the permissions right"
    elif isinstance(error, OSError) and error.errno is None:  # the store's, not the system's
        todo = "Check the address, the credentials and the network"
    else:
        todo = "Its copy needs room and permission in the cache (XDG_CACHE_HOME, or ~/.cache)"
    return UserError(
        f"cannot {verb} {location}: {reason}. {todo}, or choose another output directory."
    )
