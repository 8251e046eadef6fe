"""Reading a run directory, also while the run is in progress."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from bebert_ray.config import Config, flatten, to_dict
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import kept_config
from bebert_ray.pipeline.layout import CONFIG
from bebert_ray.pipeline.results import read_results
from bebert_ray.storage import Location, exists, lock_holder, read
from bebert_ray.storage.artifacts import RECORD, UNFINISHED

Driver = Literal["at work", "not at work", "unknown"]


@dataclass(frozen=True)
class Record:
    """The record of an artifact.

    Attributes:
        state: `waiting` if there is no record.
        time: when it was written, in seconds since the epoch.
        seconds: duration of the training.
        held_out: primary metric on the selection split.
        dev: primary metric on the main reported split.
        examples: number of training examples, in the record of the data.
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
    """Whether a driver works on the run, and which process it is; see `storage.lock`."""
    if not run.is_local:
        return "unknown", ""
    try:
        holder = lock_holder(run.local)
    except FileNotFoundError:
        return "not at work", ""
    except OSError:
        return "unknown", ""
    return ("at work", holder) if holder else ("not at work", "")


def read_record(artifact: Location) -> Record:
    """The record of an artifact; its files are not checked."""
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


def find_results(run: Location, config: Config) -> dict[str, Any] | None:
    """The content of `results.json`; None if it is missing, damaged or of other settings."""
    try:
        results = read_results(run)
        now, then = dict(flatten(to_dict(config))), dict(flatten(results["config"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # Other settings cannot change in a run directory, or affect no figure; keys of a later version
    # do what was done before they were there.
    shared = (key for key in now.keys() & then.keys() if key.startswith(("ensemble.", "member.")))
    return None if any(now[key] != then[key] for key in shared) else results


def _primary(scores: dict[str, float]) -> float:
    return next(iter(scores.values()))  # a task's primary metric comes first
