"""Keeps the records of a search while it goes on, and tells people how it stands."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from bebert_ray.cluster.pool import PATIENCE
from bebert_ray.sweep.records import Record, best_of, write_record
from bebert_ray.sweep.settings import Sweep
from bebert_ray.sweep.trial import FIGURES, NUMBER

Say = Callable[[str], None]


class Keeper(tune.Callback):
    """Keeps the records, and tells people of them."""

    def __init__(self, sweep: Sweep, final: list[Record], say: Say):
        self._sweep, self._say = sweep, say
        self._final = list(final)
        self._reports: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        self._idle_since: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own copy, which is not used: a sweep goes on from the records

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        record = self._begun(trial)
        self._reports[record.number].clear()  # if it begins again
        write_record(self._sweep.directory, record)
        self._tell(
            record, ", ".join(f"{key} {_short(value)}" for key, value in record.point.items())
        )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune has looked around; it is told if for a while no trial could begin."""
        now = time.monotonic()
        if any(trial.status == Trial.RUNNING for trial in trials):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since > PATIENCE:
            self._idle_since = math.inf  # once is enough
            self._say("no trial has begun: they wait until the cluster has room for one")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reports."""
        record = self._begun(trial)
        self._reports[record.number].append((result["trained"], result["score"]))
        if result["state"] == "running":
            self._tell(record, f"held-out {result['score']:.4f} with {_members(result['members'])}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, or was stopped."""
        record, last = self._begun(trial), trial.last_result
        figures = {name: last[name] for name in FIGURES}
        if figures["state"] == "running":
            figures |= {"state": "stopped", "note": "others were better by then"}
        self._close(
            Record(
                record.number,
                record.point,
                **figures,
                reports=self._reports[record.number],
                repeats=last.get("repeats"),
            )
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The process of a trial has died too often, or made a mistake."""
        record = self._begun(trial)
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        self._close(Record(record.number, record.point, "failed", note=lines[-1]))

    def _begun(self, trial: Any) -> Record:
        point = dict(trial.config)
        return Record(point.pop(NUMBER), point)

    def _close(self, record: Record) -> None:
        write_record(self._sweep.directory, record)
        if record.is_final:
            self._final.append(record)
        best = best_of(self._final)
        standing = f"{len(self._final)} of {self._sweep.settings.trials}"
        if best is not None:
            standing += f", best: {best.name}, {best.score:.4f}"
        self._tell(record, f"{outcome(record)} ({standing})")

    def _tell(self, record: Record, text: str) -> None:
        self._say(f"{record.name}: {text}")


def outcome(record: Record) -> str:
    """How a trial ended, in words."""
    if record.repeats is not None:
        return f"the same settings as trial {record.repeats:03d}, which has the figures"
    match record.state:
        case "done":
            text = f"done, held-out {record.score:.4f} with {_members(record.members)}"
            return f"{text}; {record.reason}" if record.reason else text
        case "stopped":
            return f"stopped at {record.score:.4f} with {_members(record.members)}: {record.reason}"
        case "diverged":
            return f"diverged, and counts as {record.score:.0f}, the worst score: {record.reason}"
    return f"{record.state}: {record.reason}"


def _members(count: int) -> str:
    return f"{count} member{'' if count == 1 else 's'}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
