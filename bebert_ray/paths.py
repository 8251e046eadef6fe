"""Paths as people write them."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

from bebert_ray.errors import UserError


def expand(text: str) -> str:
    """A path with its leading `~` or `~name` replaced by the home directory; all else as it is.

    Raises:
        UserError: there is no such user, or no home directory is known; or the path holds a zero
            byte, or bytes that are not UTF-8, which a record cannot hold.

    Example:
        >>> expand("s3://bucket/~run"), expand("runs/~old")
        ('s3://bucket/~run', 'runs/~old')
    """
    check_utf8(text)
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise UserError(
            f"the home directory of {ascii(text)[:200]} is not known; set HOME, or "
            "give an absolute path (./~… for a file of that name)"
        )
    return path


def check_utf8(path: str) -> None:
    """Refuse a path that no record and no file system of pyarrow can hold.

    Raises:
        UserError: it has bytes that are not UTF-8, or a zero byte.
    """
    if "\0" in path or any("\ud800" <= letter <= "\udfff" for letter in path):
        shown = ascii(path)[:200]
        raise UserError(f"the path {shown} is not UTF-8 text; rename it, or give a link to it")


def ensure_home() -> None:
    """Set HOME to an empty directory, until this process ends, if no home directory is known.

    A container's user may have none, and Ray cannot even be imported then.
    """
    if os.path.expanduser("~") == "~":
        home = tempfile.mkdtemp(prefix="bebert-ray-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = home
