"""Progress on the console: bars on a terminal, else a line every `LINE_EVERY` seconds."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bebert_ray.reporting.events import Event, recording
from bebert_ray.storage import Location

LINE_EVERY = 15.0  # seconds


class Board:
    """Shows and records the events of a run; use as a context manager.

    Args:
        run: the run directory.
        console: where to print: bars if it is a terminal, else lines.
    """

    def __init__(self, run: Path | Location, console: Console):
        self._run, self._console = Location.of(run), console
        self._closing = ExitStack()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>18}"),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                console=self._console,
            )

    def __enter__(self) -> Board:
        self._recorder = self._closing.enter_context(recording(self._run, self._warn))
        if self._bars:
            self._closing.enter_context(self._bars)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def show(self, event: Event) -> None:
        """Record one event, and show it; `reporting.events` lists the kinds."""
        self._recorder.write(event)
        stage = event["stage"]
        match event["kind"]:
            case "progress" if self._bars:
                self._move(self._bars, event)
            case "progress":
                now = time.monotonic()
                last = self._last_line.get(stage, -math.inf)
                if event["score"] is not None or now - last > LINE_EVERY:
                    self._last_line[stage] = now
                    self._console.print(f"{_title(event)}: {_progress(event)}")
            case "parts":
                self._console.print(
                    f"{stage}: part {event['step']}/{event['steps']}  "
                    f"{event['examples_per_second']:.0f} examples/s"
                )
            case "boost":
                self._console.print(f"{_title(event)}: {_alpha(event)}")
            case "restart":
                where = f" on node {event['node']}" if event["node"] else ""
                self._console.print(
                    f"{stage}: its process{where} died ({event['reason']}); attempt "
                    f"{event['attempt']} of {event['limit']} goes on from its checkpoint"
                )
            case "note":
                self._console.print(f"{stage}: {event['text']}")
            case "done" if self._bars and stage in self._tasks:
                self._take_down(self._bars, self._tasks.pop(stage))

    def _move(self, bars: Progress, event: Event) -> None:
        stage = event["stage"]
        if stage not in self._tasks:
            self._tasks[stage] = bars.add_task(stage, total=event["steps"], text="")
        bars.update(
            self._tasks[stage],
            description=_title(event),
            completed=event["step"],
            total=event["steps"],
            text=_progress(event),
        )

    def _take_down(self, bars: Progress, task: TaskID) -> None:
        """Replace the bar of a step that is done by a line, so that the bars fit on the screen."""
        [done] = [each for each in bars.tasks if each.id == task]
        bars.remove_task(task)
        self._console.print(f"{done.description}: {done.fields['text']}")

    def _warn(self, reason: str) -> None:
        self._console.print(f"warning: {reason}")


def _title(event: Event) -> str:
    # Rounds are numbered from 0, as members are.
    return event["stage"] + ("" if event["round"] is None else f" round {event['round']}")


def _progress(event: Event) -> str:
    text = (
        f"epoch {event['epoch']}/{event['epochs']}  step {event['step']}/{event['steps']}  "
        f"loss {event['loss']:.4f}  {event['examples_per_second']:.0f} examples/s"
    )
    if event["score"] is not None:
        text += f"  held-out {event['score']:.4f}"
    if event.get("flipped") is not None:
        text += f"  flipped {event['flipped']:.2%}"
    return text


def _alpha(event: Event) -> str:
    error = "" if event["error"] is None else f"weighted error {event['error']:.3f}, "
    return f"{error}alpha {event['alpha']:.2f}"
