"""What a run shows while it trains: bars on a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_EVERY = 15.0  # seconds


class Board:
    """Shows the progress of every stage at work, and appends it to `metrics.jsonl`.

    An event is a `training.fit.Progress` as a dict, with the name of its `stage`. Use as a context
    manager.

    Args:
        directory: the run directory.
        console: where to show it; lines instead of bars unless it is a terminal.
    """

    def __init__(self, directory: Path, console: Console):
        self._console = console
        self._file = (directory / "metrics.jsonl").open("a", encoding="utf-8")
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
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()
        self._file.close()

    def show(self, event: dict[str, Any]) -> None:
        """Record one event, and bring what is on the screen up to date."""
        self._file.write(json.dumps({"time": round(time.time(), 1), **event}) + "\n")
        self._file.flush()
        stage = event["stage"]
        text = (
            f"epoch {event['epoch']}/{event['epochs']}  step {event['step']}/{event['steps']}  "
            f"loss {event['loss']:.4f}  {event['examples_per_second']:.0f} examples/s"
        )
        if event["score"] is not None:
            text += f"  held-out {event['score']:.4f}"
        if self._bars:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=event["steps"], text="")
            self._bars.update(
                self._tasks[stage], completed=event["step"], total=event["steps"], text=text
            )
            return
        now = time.monotonic()
        if event["score"] is not None or now - self._last_line.get(stage, -math.inf) > LINE_EVERY:
            self._last_line[stage] = now
            self._console.print(f"{stage}: {text}")
