"""Where something is: a place in a file system, be it the local one or an object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from pyarrow.fs import FileSystem, LocalFileSystem
from safetensors import SafetensorError

from bebert_ray.errors import UserError
from bebert_ray.paths import check_utf8, expand


@dataclass(frozen=True)
class Location:
    """A file or directory, there or not, in a pyarrow file system.

    Two locations are equal if they show the same; `parse(str(location))` gives it back.

    Attributes:
        filesystem: the file system it is in.
        path: its name in there.
        text: what people call it: the absolute path if it is local, the URI if not.
    """

    filesystem: FileSystem = field(compare=False, repr=False)
    path: str = field(compare=False, repr=False)
    text: str

    @staticmethod
    def parse(text: str) -> Location:
        """The location that a path, relative ones to the working directory, or a URI names.

        A leading `~` is the home directory.

        Raises:
            UserError: the path is not UTF-8, or its home directory is not known; the URI is wrong,
                names no bucket or holds a password, or there is no file system of its kind.
        """
        if "://" not in text:
            return Location.of(Path(expand(text)))
        if "#" in text or not text.isprintable():
            raise UserError(
                f"{ascii(text)[:200]} cannot be used: a URI holds neither # nor control characters;"
                " write %23 for #"
            )
        try:
            if urlsplit(text).password:
                raise UserError(
                    "a URI is shown and recorded: leave the password out, and give it in the "
                    "environment, as AWS_SECRET_ACCESS_KEY or what the store has for it"
                )
            filesystem, path = FileSystem.from_uri(text)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{text} cannot be used: {str(error).splitlines()[0]}; give a directory or a URI "
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

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return Location.of(self.local / name)
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
            return Location.of(self.local.parent)
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
    if location.is_local:
        todo = "Make room or set the permissions right"
    elif isinstance(error, OSError) and error.errno is None:  # the store's, not the system's
        todo = "Check the address, the credentials and the network"
    else:
        todo = "Its copy needs room and permission in the cache (XDG_CACHE_HOME, or ~/.cache)"
    return UserError(
        f"cannot {verb} {location}: {reason}. {todo}, or choose another output directory."
    )
