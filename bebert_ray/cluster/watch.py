"""Watches the processes of Ray that a driver cannot do without.

When the head of a cluster is gone Ray ends the driver after a minute, without a word of what to do;
when the raylet of the driver's own machine is gone, the driver may wait for ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bebert_ray.errors import RunError

LOOK_EVERY = 1.0  # seconds
LAST_WORDS = 10.0
"""Seconds that the work may take to end, before the message is printed all the same."""


class RayLost(RunError):
    """A process of Ray that the work needs is gone."""


@dataclass(frozen=True)
class Lifeline:
    """A process of Ray.

    Attributes:
        name: what it is, for messages.
        address: where it listens, HOST:PORT.
        patience: seconds that it may be away.
    """

    name: str
    address: str
    patience: float

    @property
    def answers(self) -> bool:
        """Whether something takes connections there."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            return False
        return True

    def __str__(self) -> str:
        return (
            f"{self.name} at {self.address} is gone; what was finished is kept, give the same "
            "command again to go on"
        )


@contextmanager
def watched(lifelines: Sequence[Lifeline]) -> Iterator[None]:
    """End the block with an error when one of the processes has been away for too long.

    The block is ended by SIGINT where it runs on the main thread, whose handler must raise
    KeyboardInterrupt, as Python's own does, or have the block end; on another thread by an
    exception that is raised there.

    Args:
        lifelines: the processes.

    Raises:
        RayLost: one is gone.
    """
    watch = _Watch(lifelines, threading.current_thread())
    watch.start()
    try:
        try:
            yield
        finally:
            watch.end()
    except BaseException as error:
        if watch.lost is not None:
            raise RayLost(str(watch.lost)) from error
        raise
    if watch.lost is not None:
        raise RayLost(str(watch.lost))


class _Watch:
    def __init__(self, lifelines: Sequence[Lifeline], worker: threading.Thread):
        self._lifelines, self._worker = lifelines, worker
        self._ended, self._lock = threading.Event(), threading.Lock()
        self.lost: Lifeline | None = None
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        with self._lock:
            self._ended.set()
        if self.lost is None:  # else it may be about to print
            self._thread.join(timeout=5)

    def _run(self) -> None:
        seen = dict.fromkeys(self._lifelines, time.monotonic())
        while not self._ended.wait(LOOK_EVERY):
            for line in self._lifelines:
                if line.answers:
                    seen[line] = time.monotonic()
                elif time.monotonic() - seen[line] > line.patience:
                    self._give_up(line)
                    return

    def _give_up(self, line: Lifeline) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self.lost = line
            if self._worker is threading.main_thread():
                os.kill(os.getpid(), signal.SIGINT)
            else:
                thread = ctypes.c_ulong(self._worker.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(RayLost))
        if not self._ended.wait(LAST_WORDS):  # it waits for Ray, which may end this process
            print(f"error: {line}", file=sys.stderr, flush=True)
