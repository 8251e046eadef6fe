"""What each trial has come to: `trials/NNN.json`, beside the trial's run directory.

The search has no other state. What optuna and ASHA know at any time follows from the records, and
so a sweep goes on after whatever has happened to its driver.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import optuna
from optuna.trial import TrialState, create_trial
from pydantic import ConfigDict, TypeAdapter, ValidationError

from bebert_ray.errors import UserError
from bebert_ray.pipeline.results import to_json
from bebert_ray.storage import Location, names, read, write_atomic
from bebert_ray.storage.records import NewerVersion, opened, sealed
from bebert_ray.sweeps.settings import Sweep
from bebert_ray.sweeps.space import Point

STUDY = "sweep"
FORMAT, VERSION = "bebert-trial", 1
"""Of the records."""

Aims = dict[str, Literal["maximize", "minimize"]]
SCORE: Aims = {"score": "maximize"}
SCORE_AND_BITS: Aims = {"score": "maximize", "bits": "minimize"}

State = Literal[
    "running",  # or cut off
    "done",
    "stopped",  # early: others were better after as much training
    "diverged",
    "failed",
]


@dataclass(frozen=True)
class Record:
    """A trial.

    Attributes:
        number: from 0.
        point: where it lies in the space.
        state: see `State`.
        score: the primary metric of its ensemble on the selection split: the final one if it is
            done, the last one if it was stopped, the worst possible one if it diverged.
        bits: size of that ensemble.
        members: that it has.
        seconds: that these trained for, together.
        reports: pairs of members trained (a round of several is a part of one) and score.
        note: why it ended early, if it did.
        repeats: the trial at the same point that was done before, and has the figures.
    """

    number: int
    point: Point
    state: State = "running"
    score: float | None = None
    bits: int = 0
    members: int = 0
    seconds: float = 0.0
    reports: list[tuple[float, float]] = field(default_factory=list)
    note: str = ""
    repeats: int | None = None

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    @property
    def is_final(self) -> bool:
        """Whether it would come to the same again."""
        return self.state in ("done", "stopped", "diverged")

    @property
    def reason(self) -> str:
        """The note in a line: the first one and, of a traceback, the last."""
        first, *others = self.note.strip().splitlines() or [""]
        return f"{first} {others[-1].strip()}" if others else first

    @property
    def name(self) -> str:
        """What people read."""
        return f"trial {self.number:03d}"


_RECORD = TypeAdapter(Record)


def write_record(sweep: Location, record: Record) -> None:
    """Keep a record, in place of the trial's earlier one."""
    entries = sealed(asdict(record), FORMAT, VERSION)
    write_atomic(_place(sweep, _name(record.number)), to_json(entries, indent=2))


def read_records(sweep: Location) -> list[Record]:
    """All records, in order.

    Raises:
        NewerVersion: a newer version of bebert_ray has made one.
        UserError: one is damaged, or is not that of its trial.
    """
    return [
        read_record(sweep, name)
        for name in sorted(names(sweep / "trials"))
        if name.endswith(".json")
    ]


def read_record(sweep: Location, name: str) -> Record:
    """The record in a file of `trials`; see `read_records`."""
    place = _place(sweep, name)
    try:
        entries = opened(read(place), place, FORMAT, VERSION)
        try:
            record = _RECORD.validate_python(entries)
        except ValidationError as error:
            raise UserError(f"{place} is damaged: {error.errors()[0]['loc']} is wrong") from error
        if name != _name(record.number):
            raise UserError(f"{place} is damaged: it is the record of {record.name}")
    except NewerVersion:
        raise
    except UserError as error:
        raise UserError(
            f"{str(error)[:300]}. Delete that file to run its trial again; nothing else is lost"
        ) from error
    return record


def _name(number: int) -> str:
    return f"{number:03d}.json"


def study_of(
    sweep: Sweep,
    records: list[Record],
    aims: Aims,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """An optuna study of all trials that came to an end.

    Args:
        sweep: what is searched.
        records: of its trials.
        aims: what is optimised, `score` and perhaps `bits`, and which way.
        storage: where to put it, under the name `STUDY`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study it makes
    study = optuna.create_study(storage=storage, study_name=STUDY, directions=list(aims.values()))
    distributions = {dimension.key: dimension.distribution for dimension in sweep.space}
    for record in records:
        if record.is_final:
            # optuna knows of pruning for one aim alone; for two, the last figures count.
            stopped = record.state == "stopped" and len(aims) == 1
            scores = [score for _, score in record.reports]
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
                    params=record.point,
                    distributions=distributions,
                    values=None if stopped else [getattr(record, name) for name in aims],
                    intermediate_values=dict(enumerate(scores, start=1)),
                    user_attrs={"number": record.number},
                )
            )
    return study


def pareto_front(records: list[Record]) -> list[Record]:
    """The trials that are done and that no other beats in score or bits without loss in the other.

    Returns:
        The smallest first.
    """
    front: list[Record] = []
    done = [record for record in records if record.state == "done" and record.repeats is None]
    for record in sorted(done, key=lambda record: (record.bits, -_score(record), record.number)):
        if not front or _score(record) > _score(front[-1]):
            front.append(record)
    return front


def best_of(records: list[Record]) -> Record | None:
    """The trial that is done and scores highest; the smaller, then the first, where several do."""
    done = [record for record in records if record.state == "done" and record.repeats is None]
    return max(done, key=lambda each: (_score(each), -each.bits, -each.number), default=None)


def ending(record: Record) -> str:
    """How a trial ended, in words."""
    if record.repeats is not None:
        return f"the same settings as trial {record.repeats:03d}, which has the figures"
    match record.state:
        case "done":
            text = f"done, held-out {record.score:.4f} with {members_text(record.members)}"
            return f"{text}; {record.reason}" if record.reason else text
        case "stopped":
            members = members_text(record.members)
            return f"stopped at {record.score:.4f} with {members}: {record.reason}"
        case "diverged":
            return f"diverged, and counts as {record.score:.0f}, the worst score: {record.reason}"
    return f"{record.state}: {record.reason}"


def members_text(count: int) -> str:
    """`1 member`, `2 members`."""
    return f"{count} member{'' if count == 1 else 's'}"


def _score(record: Record) -> float:
    assert record.score is not None
    return record.score


def _place(sweep: Location, name: str) -> Location:
    return sweep / "trials" / name
