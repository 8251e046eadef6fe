"""A Ray of this machine, closed to others.

Ray runs whatever it is sent, and by default listens on all network interfaces. A Ray that a command
starts listens on the loopback interface, and asks for a token that this user alone can read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ray import _raylet
from ray._private import ray_constants
from ray.exceptions import AuthenticationError

from bebert_ray.errors import UserError

_RAY: Any = _raylet  # it has no type hints
_AUTH_MODE = "RAY_AUTH_MODE"
_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's own switch for systems that ask the user about each open port: 0 is 127.0.0.1 alone."""


@contextmanager
def closed_to_others() -> Iterator[None]:
    """A Ray that starts in this context listens on loopback and asks for a token.

    The context lasts as long as that Ray. RAY_AUTH_MODE is left as it is where the user has set it.
    The environment is as before afterwards.
    """
    wanted = {_CLUSTER: "0"} | ({} if _AUTH_MODE in os.environ else {_AUTH_MODE: "token"})
    constant = ray_constants.ENABLE_RAY_CLUSTER
    with _environment(wanted):
        ray_constants.ENABLE_RAY_CLUSTER = False
        _read_environment()
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = constant
    _read_environment()


def protect_token() -> None:
    """Take the right to read the token from others: Ray writes it with the mode of the umask."""
    place = _token_place()
    with suppress(OSError):
        status = place.stat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
            place.chmod(0o600)


@contextmanager
def admitted(address: str) -> Iterator[None]:
    """Join a cluster that may ask for a token; one in its usual place is used.

    Ray itself tries for half a minute, and does not look for the token unless RAY_AUTH_MODE is set.

    Args:
        address: of the head, HOST:PORT.

    Raises:
        UserError: the cluster asks for a token which this process does not have.
    """
    if _admits(address):
        yield
        return
    if _AUTH_MODE not in os.environ and _token_place().is_file():
        with _environment({_AUTH_MODE: "token"}):
            _read_environment()
            if _admits(address):
                yield
                return
    raise UserError(
        f"Ray at {address} asks for a token, and this process has none that it takes: set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    )


def _admits(address: str) -> bool:
    try:
        _RAY.GcsClient(address=address)
    except AuthenticationError:
        return False
    return True


def _read_environment() -> None:
    """Have Ray read its settings again, which it does once when it is imported."""
    _RAY.Config.initialize("")


def _token_place() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
