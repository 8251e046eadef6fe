"""Watches the head of a cluster: Ray ends a driver without a word when its head is gone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bebert_ray.errors import RunError

LOOK_EVERY = 2.0  # seconds
PATIENCE = 40.0
"""Seconds that a head may be away. Ray ends the process after 60."""
GRACE = 15.0  # seconds that this process has to end in good order


class HeadLost(RunError):
    """The head of the cluster is gone."""


@contextmanager
def head_watched(address: str) -> Iterator[None]:
    """End the block with an error when the head of the cluster has been away for `PATIENCE`.

    On the main thread the block is interrupted; elsewhere, and where it does not end within
    `GRACE` seconds, the message is printed and the process ends, as Ray would end it.

    Args:
        address: of the head, HOST:PORT.

    Raises:
        HeadLost: it is gone.
    """
    ended, lost = threading.Event(), threading.Event()
    main = threading.current_thread() is threading.main_thread()
    watch = threading.Thread(target=_watch, args=(address, ended, lost, main), daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:
        if lost.is_set():
            raise HeadLost(_message(address)) from error
        raise
    finally:
        ended.set()


def _watch(address: str, ended: threading.Event, lost: threading.Event, main: bool) -> None:
    seen = time.monotonic()
    while not ended.wait(LOOK_EVERY):
        if answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > PATIENCE:
            lost.set()
            if main:
                os.kill(os.getpid(), signal.SIGINT)  # wakes it from a wait, too
            if not ended.wait(GRACE):
                print(f"error: {_message(address)}", file=sys.stderr, flush=True)
                os._exit(RunError.exit_code)
            return


def answers(address: str) -> bool:
    """Whether something accepts connections at an address, HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LOOK_EVERY).close()
    except (OSError, ValueError):
        return False
    return True


def _message(address: str) -> str:
    return (
        f"the head of the Ray cluster at {address} is gone; what was finished is kept: give the "
        "same command again to go on"
    )
