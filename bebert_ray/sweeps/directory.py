"""The directory of a sweep: whether it is free or its own, and what is to be done there."""

from __future__ import annotations

import json
import re

from bebert_ray.config import differing_keys
from bebert_ray.config.recipes import NO_FIGURE, kind_of
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import is_kept
from bebert_ray.pipeline.driver import make_plan
from bebert_ray.pipeline.layout import CONFIG, LOCK, REPORT, RESULTS
from bebert_ray.pipeline.ownership import clear_run, remove_empty
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.results import to_json
from bebert_ray.storage import Location, Miss, check_unlocked, keep, names, read, remove
from bebert_ray.storage import sweep as sweep_drafts
from bebert_ray.storage.records import NewerVersion, opened, sealed
from bebert_ray.sweeps.records import Record, read_records
from bebert_ray.sweeps.settings import Sweep

SETTINGS = "sweep.json"
ENSEMBLE = "ensemble.json"
FORMAT, VERSION = "bebert-sweep", 1
"""Of the settings."""
# What may change from one start of a sweep to the next: no figure of a trial depends on it.
FREE_KEYS = (
    *("sweep.", "run.resources.", "run.export.", "run.output", "run.fresh"),
    *(f"run.training.{key}" for key in NO_FIGURE),
)
# What a sweep leaves in its directory, beside its settings.
LEFT = {
    *("shared", "trials", "tune", "mlruns", "best"),
    *("best.yaml", RESULTS, REPORT),
}


def check_directory(sweep: Sweep) -> None:
    """Refuse a directory with anything in it that is not of this sweep, or of one to start over.

    Raises:
        UserError: it is another sweep's, or holds something else.
    """
    directory = sweep.directory
    try:
        there = names(directory) - {LOCK}
    except UserError as error:
        raise UserError(f"output: {error}") from error
    if SETTINGS not in there:
        if there and not (there <= LEFT and is_kept(directory / "shared")):
            raise UserError(
                f"output: {directory} is not empty and not a sweep (it has no {SETTINGS}); choose "
                "another directory"
            )
        return
    if sweep.config.fresh and is_kept(directory / "shared"):
        return  # a sweep of ours, whatever its settings
    place = directory / SETTINGS
    try:
        old = opened(read(place), place, FORMAT, VERSION)
        changed = [
            f"  {key}: {before!r} there, {now!r} here"
            for key, before, now in differing_keys(old, json.loads(to_json(sweep.to_dict())))
            if not key.startswith(FREE_KEYS)
        ]
    except NewerVersion:
        raise
    except (UserError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"output: {str(error)[:200]}\nNothing else is lost: delete {SETTINGS}, and give the "
            "same command again, with the same settings as before. If it was not written by "
            "bebert_ray, choose another directory."
        ) from error
    if changed and not sweep.config.fresh:
        listed = "\n".join(changed)
        raise UserError(
            f"output: {directory} is another sweep:\n{listed}\n"
            "choose another output, or start over with fresh=true"
        )


def check_data(sweep: Sweep, shared: Prepared) -> None:
    """Refuse to train more trials on other examples, or from another checkpoint, than the first.

    Raises:
        UserError: what the configuration names is there, and has changed.
    """
    known = shared.find_data()
    trials = read_records(sweep.directory)
    if trials and not sweep.config.fresh and isinstance(known, Miss) and known.is_outdated:
        raise UserError(
            f"output: the trials in {sweep.directory} are of other data or another checkpoint, "
            f"under the same name ({known.reason}); choose another output, or start over with "
            "fresh=true"
        )


def open_directory(sweep: Sweep) -> None:
    """Enter the directory, whose lock is held, and empty it if the sweep starts afresh.

    Raises:
        UserError: it is not this sweep's, or somebody trains one of its runs by itself.
    """
    directory = sweep.directory
    check_directory(sweep)
    trials = directory / "trials"
    runs = [trials / name for name in names(trials) if _TRIAL.fullmatch(name)]
    for run in (directory / "shared", directory / "best", *runs):
        check_unlocked(run)
    directory.local.mkdir(parents=True, exist_ok=True)
    sweep_drafts(directory)
    if sweep.config.fresh:
        _clear(directory)
    keep(directory / SETTINGS, _text(sweep).encode())


def _clear(directory: Location) -> None:
    """Delete what a sweep has made; files of others stay, and so does what MLflow has recorded."""
    for run in ("shared", "best"):
        _clear_run(directory / run)
    trials = directory / "trials"
    for name in names(trials):
        if _RECORD.fullmatch(name):
            remove(trials / name)
        elif _TRIAL.fullmatch(name) and is_kept(trials / name):
            _clear_run(trials / name)
        elif _TRIAL.fullmatch(name):
            clear_run(trials / name)
            remove_empty(trials / name)
    for name in filter(_SEARCH.fullmatch, names(directory / "tune")):
        remove(directory / "tune" / name)
    for name in ("trials", "tune"):
        remove_empty(directory / name)
    for name in ("best.yaml", RESULTS, REPORT):
        if name in names(directory):
            remove(directory / name)


def _clear_run(run: Location) -> None:
    clear_run(run)
    for name in (CONFIG, ENSEMBLE, LOCK):
        if name in names(run):
            remove(run / name)
    remove_empty(run)


_RECORD, _TRIAL = re.compile(r"\d{3,}\.json"), re.compile(r"\d{3,}")
_SEARCH = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")  # Ray Tune's own records of a search


def plan(sweep: Sweep, shared: Prepared) -> dict[str, str]:
    """What will happen to each shared stage and each trial, by name; changes nothing."""
    stages = ["data", *(stage.name for stage in kind_of(shared.config).stages)]
    states = {name: state for name, state in make_plan(shared).items() if name in stages}
    records = [] if sweep.config.fresh else read_records(sweep.directory)
    for number in range(max(sweep.settings.trials, len(records))):
        states[f"trial {number:03d}"] = "run"
    again = {record.number for record in to_run(sweep, records)}
    for record in records:
        states[record.name] = (
            f"run (was {record.state})" if record.number in again else record.state
        )
    return states


def to_run(sweep: Sweep, records: list[Record]) -> list[Record]:
    """The trials to take up again: those that came to no end, as far as any are left to be run."""
    final = sum(record.is_final for record in records)
    open_ones = [record for record in records if not record.is_final]
    return open_ones[: max(0, sweep.settings.trials - final)]


def _text(sweep: Sweep) -> str:
    return to_json(sealed(sweep.to_dict(), FORMAT, VERSION), indent=2)
