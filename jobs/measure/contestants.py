"""Processes that take turns, so that whatever else a machine does slows all of them alike."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

Step = Callable[..., object]


class Contestant:
    """A process that takes a step whenever it is told to.

    Args:
        make: makes the step, in the process; a function of a module.
        environment: variables that the process starts with.
        args: arguments of `make`.
        threads: of torch.

    Attributes:
        before: the most memory that the process had before the step was made, in MiB.
    """

    def __init__(
        self,
        make: Callable[..., Step],
        environment: dict[str, str],
        *args: object,
        threads: int = 1,
    ):
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        self._process = spawn(_serve, environment, theirs, threads, make, *args)
        self.before: float = self._pipe.recv()
        self._pipe.recv()  # ready

    def step(self, *args: Any) -> float:
        """Take a step; its seconds."""
        self._pipe.send(args)
        seconds: float = self._pipe.recv()
        return seconds

    def stop(self) -> float:
        """End the process; the most memory that it ever had, in MiB."""
        self._pipe.send(None)
        peak: float = self._pipe.recv()
        self._process.join()
        return peak


def spawn(target: Callable[..., None], environment: dict[str, str], *args: object) -> SpawnProcess:
    """Start a process with more environment variables than this one has."""
    # glibc reads its settings when a process starts: they must be in the environment by then.
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=args, daemon=True
        )
        process.start()
        return process
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_process(target: Callable[..., None], environment: dict[str, str], *args: object) -> None:
    """Call a function in a process of its own.

    Raises:
        RuntimeError: it has failed.
    """
    process = spawn(target, environment, *args)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{target.__name__} ended with exit code {process.exitcode}")


def _serve(pipe: Connection, threads: int, make: Callable[..., Step], *args: object) -> None:
    import torch

    torch.set_num_threads(threads)
    pipe.send(_peak())
    step = make(*args)
    pipe.send("ready")
    while (given := pipe.recv()) is not None:
        started = time.perf_counter()
        step(*given)
        pipe.send(time.perf_counter() - started)
    pipe.send(_peak())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
