"""What can be read from a run directory, be the run at work or not."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from typing import Any, Literal

from bebert_ray.config import Config, differing_keys, to_dict
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import kept_config
from bebert_ray.pipeline.layout import CONFIG, LOCK, RESULTS
from bebert_ray.storage import Location, exists, read
from bebert_ray.storage.artifacts import RECORD, UNFINISHED

Driver = Literal["at work", "not at work", "unknown"]


@dataclass(frozen=True)
class Record:
    """What the record of an artifact says.

    Attributes:
        state: whether there is one, and it can be read.
        time: when it was written, in seconds since the epoch.
        seconds: what the artifact took to make.
        held_out: primary metric on the selection split.
        dev: primary metric on the main reported split.
        examples: of the data: training examples.
    """

    state: Literal["done", "waiting", "damaged record"]
    time: float = 0.0
    seconds: float | None = None
    held_out: float | None = None
    dev: float | None = None
    examples: int = 0


def read_config(run: Location) -> Config:
    """The configuration of a run.

    Raises:
        UserError: there is no such run, or the configuration is damaged.
    """
    if not exists(run):
        raise UserError(f"there is no run at {run}")
    if not exists(run / CONFIG):
        raise UserError(f"{run} is not a run: it has no {CONFIG}")
    return kept_config(run)


def find_driver(run: Location) -> tuple[Driver, str]:
    """Whether a driver is at work, and which; see `storage.lock`."""
    if not run.is_local:
        return "unknown", ""
    try:
        file = os.open(run.local / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return "not at work", ""
    except OSError:
        return "unknown", ""
    try:
        # For some microseconds this one is shared with others who look, but with no driver.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "at work", os.pread(file, 500, 0).decode(errors="replace")
    finally:
        os.close(file)
    return "not at work", ""


def read_record(artifact: Location) -> Record:
    """What is recorded of an artifact. Its files are not looked at."""
    place = artifact / RECORD
    try:
        text = read(place)
        written = place.filesystem.get_file_info(place.path).mtime
    except FileNotFoundError:
        return Record("waiting")
    if text == UNFINISHED or written is None:
        return Record("waiting")
    try:
        facts = json.loads(text)["facts"]
        scores = facts.get("scores", {})
        dev = [split for split in scores if split not in ("train", "selection")]
        return Record(
            "done",
            written.timestamp(),
            facts.get("seconds"),
            _primary(scores["selection"]) if scores else None,
            _primary(scores[dev[0]]) if dev else None,
            facts.get("examples", {}).get("train", 0),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Record("damaged record")


def read_results(run: Location, config: Config) -> dict[str, Any] | None:
    """What `results.json` says, if it is there, whole, and of the run as it is configured now."""
    try:
        results: dict[str, Any] = json.loads(read(run / RESULTS))
        now, then = to_dict(config), results["config"]
        # All else is fixed in a run, or does not touch the figures.
        changed = [differing_keys(then[part], now[part]) for part in ("ensemble", "member")]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return None if any(changed) else results


def _primary(scores: dict[str, float]) -> float:
    return next(iter(scores.values()))  # a task's primary metric comes first
