"""The events of a run: written to `metrics.jsonl` and for TensorBoard, and read back.

An event is a dict. Each has a `kind`, and as its `stage` the name of what is trained, such as
`teacher` or `member 000`, whatever the round. Workers and the driver report these kinds:

    progress  epoch, epochs, step, steps, loss, learning_rate, examples_per_second,
              score (held out, or None), memory (bytes), round (or None)
    boost     round (or None), error (weighted, or None), alpha
    start     node, pid: a process began the step; with stage `driver`: the driver began the run
    restart   node, reason, attempt, limit: that process died, and another one goes on
    done      round (or None): the step, or that round of it, is done
    parts     step, steps, examples_per_second: so many parts of the augmented copies are done
    note      text: any other message for people
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bebert_ray.errors import UserError
from bebert_ray.pipeline.layout import METRICS, TENSORBOARD
from bebert_ray.storage import Location, read, write_atomic
from bebert_ray.storage.location import make_directory
from bebert_ray.storage.records import parse_json

DRIVER = "driver"
UPLOAD_EVERY = 30.0  # seconds

Event = dict[str, Any]


@contextmanager
def recording(run: Location, warn: Callable[[str], None]) -> Iterator[Recorder]:
    """A context with a recorder; the caller holds the lock of the run directory.

    Files in an object store cannot be appended to: there, they are written to a local directory and
    uploaded every `UPLOAD_EVERY` seconds and at the end.

    Args:
        run: the run directory.
        warn: called once with a message if something cannot be written.

    Raises:
        UserError: the events of earlier drivers cannot be read.
    """
    told: list[str] = []

    def warn_once(reason: str) -> None:
        if not told:
            told.append(reason)
            warn(f"progress cannot be recorded at present; the run goes on: {reason}")

    past = _content(run)
    if run.is_local:
        make_directory(replace(run, root=None))
        yield Recorder(run.rooted(), past, warn_once)
        return
    with tempfile.TemporaryDirectory(prefix="bebert-ray-") as scratch:
        directory, end = Path(scratch), threading.Event()
        write_atomic(directory / METRICS, past)
        uploads = threading.Thread(target=_upload, args=(directory, run, end, warn_once))
        uploads.start()
        try:
            yield Recorder(directory, past, warn_once)
        finally:
            end.set()
            uploads.join()


class Recorder:
    """Appends events to the files of a run.

    If an event cannot be written, the recorder warns and the run goes on; the next event is tried
    again.

    Args:
        directory: directory of the files; it is not made.
        past: the present content of `metrics.jsonl`.
        warn: called with a message if something cannot be written.
    """

    def __init__(self, directory: Path | Location, past: bytes, warn: Callable[[str], None]):
        self._run, self._warn = Location.of(directory), warn
        # A process that was killed may have written half a line.
        self._gap = b"\n" if past and not past.endswith(b"\n") else b""
        self._odometers: defaultdict[str, Odometer] = defaultdict(Odometer)
        for event in _parse(past):
            if event["kind"] == "progress":
                self._odometers[event["stage"]].advance(event)
        node, pid = socket.gethostname(), os.getpid()
        # TensorBoard reads the event files of a stage in the order of their names.
        self._file = f"events.out.tfevents.{time.time_ns()}.{node}.{pid}"
        self.write({"kind": "start", "stage": DRIVER, "node": node, "pid": pid})

    def write(self, event: Event) -> None:
        """Record one event, with its time."""
        line = json.dumps({"time": round(time.time(), 1), **event}).encode() + b"\n"
        step, values = self._curves(event)
        try:
            _append(self._run.local / METRICS, self._gap + line)
            self._gap = b""
            if values:
                self._draw(event["stage"], step, values)
        except OSError as error:
            self._warn(f"cannot write in {self._run}: {error.strerror}")

    def _curves(self, event: Event) -> tuple[int, dict[str, float]]:
        """The position on the x-axis (a step or a round), and the values to draw there by name."""
        match event["kind"]:
            case "progress":
                step = self._odometers[event["stage"]].advance(event)
                names = ("loss", "learning_rate", "examples_per_second", "memory")
                values = {name: event[name] for name in names} | {"held_out_score": event["score"]}
            case "boost":
                step = event["round"] or 0
                values = {"weighted_error": event["error"], "alpha": event["alpha"]}
            case _:
                step, values = 0, {}
        return step, {name: value for name, value in values.items() if value is not None}

    def _draw(self, stage: str, step: int, values: dict[str, float]) -> None:
        from bebert_ray.reporting import (
            tensorboard,  # slow to import, and not needed to read events
        )

        place = self._run / TENSORBOARD / stage.replace(" ", "-")
        make_directory(place)
        path = place.local / self._file
        opening = b"" if path.exists() else tensorboard.opening()
        _append(path, opening + tensorboard.scalars(values, step))


@dataclass
class Odometer:
    """Counts training steps over all fits of one stage or member; each fit counts from 1.

    A ternary model, for example, is fitted to hidden states first, then to predictions.

    Attributes:
        before: training steps of the fits that are complete.
        step: training steps done in the present fit.
        steps: training steps of the present fit in all.

    >>> odometer = Odometer()
    >>> [odometer.advance({"step": step, "steps": 2}) for step in (1, 2, 1)]
    [1, 2, 3]
    """

    before: int = 0
    step: int = 0
    steps: int = 0

    def advance(self, event: Event) -> int:
        """The training steps done in all fits, at a `progress` event."""
        # A fit that goes on from its checkpoint steps back, too, but not from its last step.
        if event["step"] < self.step == self.steps:
            self.before += self.steps
        self.step, self.steps = event["step"], event["steps"]
        return self.before + self.step


def read_events(run: Location) -> list[Event]:
    """All events of a run, the oldest first; incomplete lines of killed processes are skipped.

    Raises:
        UserError: they cannot be read.
    """
    return list(_parse(_content(run)))


def _content(run: Location) -> bytes:
    with suppress(FileNotFoundError):
        return read(run / METRICS)
    return b""


def _parse(content: bytes) -> Iterator[Event]:
    for line in content.splitlines():
        with suppress(ValueError):
            event = parse_json(line)
            if _is_event(event):
                yield event


_Number = int | float
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("kind", "stage", "node", "reason", "text"), str),
    **dict.fromkeys(("epoch", "epochs", "step", "steps", "pid", "attempt", "limit"), int),
    **dict.fromkeys(("time", "loss", "learning_rate", "examples_per_second", "alpha"), _Number),
    **{"score": _Number | None, "error": _Number | None, "round": int | None},
    **{"memory": int | None, "flipped": _Number | None},
}
_NEEDED = {"progress": ("step", "steps", "loss"), "boost": ("alpha",)}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "progress": {"score": None, "round": None},
    "boost": {"error": None, "round": None},
    "restart": {"node": "", "reason": "", "attempt": 0, "limit": 0},
    "note": {"text": ""},
    "done": {"round": None},
}


def _is_event(event: Any) -> bool:
    """Whether this is an event as `Recorder` writes it; what is not is left out by readers."""
    if not isinstance(event, dict) or not {"kind", "stage"} <= event.keys():
        return False
    if not all(_fits(value, _TYPES[name]) for name, value in event.items() if name in _TYPES):
        return False
    event.setdefault("time", 0.0)
    for name, value in _DEFAULTS.get(event["kind"], {}).items():
        event.setdefault(name, value)
    return all(name in event for name in _NEEDED.get(event["kind"], ()))


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, wanted):
        return False
    return not isinstance(value, int | float) or abs(value) < MOST


MOST = 1e18
"""What no figure of an event is above; NaN and infinity are none either."""


def _append(path: Path, content: bytes) -> None:
    """Append all of `content` or nothing: an incomplete record damages those after it."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            file.truncate(size)
            raise


def _upload(
    directory: Path, run: Location, end: threading.Event, warn: Callable[[str], None]
) -> None:
    """Upload files that have grown, every `UPLOAD_EVERY` seconds and at the end."""
    uploaded: dict[Path, int] = {}
    ended = False
    while not ended:
        ended = end.wait(UPLOAD_EVERY)
        for path in filter(Path.is_file, directory.rglob("*")):
            content = path.read_bytes()
            if len(content) > uploaded.get(path, 0):
                try:
                    write_atomic(run / path.relative_to(directory).as_posix(), content)
                    uploaded[path] = len(content)
                except UserError as error:
                    warn(str(error))
