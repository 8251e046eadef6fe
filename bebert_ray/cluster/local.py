"""A Ray of this machine that takes orders from this process alone.

Ray runs whatever it is sent. By default it listens on all interfaces, and any user of the machine
may write where it keeps its sockets and logs. Here it listens on the loopback interface, asks for a
token, and keeps its files where only this user can go.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants
from ray.exceptions import AuthenticationError

from bebert_ray.errors import UserError

ray_internals: Any = _raylet  # without type hints
AUTH_MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# With "0" Ray listens on 127.0.0.1, as it does on systems that ask the user about each port.
_ALL_INTERFACES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LONGEST_PLACE = 20
"""Letters: below it Ray makes sockets, whose paths have at most 107."""
_OF_RAY = ("RAY_", "PYTHONBREAKPOINT")


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """A Ray of this machine, for as long as the context lasts.

    It asks for a token that is made for it, unless RAY_AUTH_MODE is set: then as that says. Its
    files are removed if the context ends without an error.

    Args:
        options: of `ray.init`.

    Examples:
        ```python
        with local_ray(num_cpus=2):
            ray.get(task.remote())
        ```
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(place) > LONGEST_PLACE:
        place = "/tmp"
    files = tempfile.mkdtemp(prefix="bebert-ray-", dir=place)  # 0700; Ray makes its own 0777
    with environment_kept():
        if AUTH_MODE not in os.environ:
            os.environ[AUTH_MODE] = "token"
            if TOKEN not in os.environ and TOKEN_PATH not in os.environ:
                os.environ[TOKEN] = secrets.token_hex(32)
        read_environment()  # also what another Ray of this process has set meanwhile
        try:
            with _on_loopback():
                ray.init(address="local", _temp_dir=f"{files}/ray", **options)
            yield
        finally:
            ray.shutdown()
    shutil.rmtree(files, ignore_errors=True)


@contextmanager
def joined(address: str, head: str | None, **options: Any) -> Iterator[None]:
    """A connection to a cluster. If it asks for a token, one in its usual place is used.

    Ray itself tries for half a minute, and does not look for the token unless RAY_AUTH_MODE is set.

    Args:
        address: of the cluster, as of `ray.init`.
        head: HOST:PORT of its head, if the address names it.
        options: of `ray.init`.

    Raises:
        UserError: the cluster asks for a token which this process does not have.
    """
    with environment_kept():
        if head is not None and not _admits(head):
            if AUTH_MODE not in os.environ and _token_place().is_file():
                os.environ[AUTH_MODE] = "token"
                read_environment()
            if not _admits(head):
                raise UserError(
                    f"Ray at {head} asks for a token, and this process has none that it takes: set "
                    f"{AUTH_MODE}=token, and {TOKEN} or {TOKEN_PATH} to the cluster's token"
                )
        try:
            ray.init(address=address, **options)
            yield
        finally:
            ray.shutdown()


def _admits(head: str) -> bool:
    try:
        ray_internals.GcsClient(address=head)
    except AuthenticationError:
        return False
    return True


def _token_place() -> Path:
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


@contextmanager
def environment_kept() -> Iterator[None]:
    """Put the environment variables of Ray back at the end: Ray sets some of its own."""
    before = dict(os.environ)
    try:
        yield
    finally:
        changed = {
            name
            for name in {*before, *os.environ}
            if name.startswith(_OF_RAY) and before.get(name) != os.environ.get(name)
        }
        for name in changed:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        if changed & {AUTH_MODE, TOKEN, TOKEN_PATH}:
            read_environment()


def read_environment() -> None:
    """Let Ray read its variables again: it did so when it was imported, and remembers the token."""
    ray_internals.Config.initialize("")
    ray_internals.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started in the block listen on 127.0.0.1 alone."""
    constant = ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_ALL_INTERFACES] = "0"  # for the processes of that Ray
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read it before
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
