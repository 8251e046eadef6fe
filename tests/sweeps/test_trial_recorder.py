from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bebert_ray.sweeps.directory import SETTINGS
from bebert_ray.sweeps.records import Record, read_records
from bebert_ray.sweeps.settings import load_sweep
from bebert_ray.sweeps.tune import TrialRecorder

POINT = {"member.learning_rate": 1e-4}


class Following:
    """A recorder, and the events of trials, as Tune sends them."""

    def __init__(self, directory: Path):
        (directory / SETTINGS).write_text("{}")  # the mark of a sweep that is there
        self.sweep = load_sweep(
            None,
            [
                *("task=demo", f"output={directory}", "sweep.trials=3"),
                "sweep.space.member.learning_rate.loguniform=[1e-5, 1e-3]",
            ],
        )
        self.lines: list[str] = []
        self.recorder = TrialRecorder(self.sweep, [], self.lines.append)

    def start(self, number: int) -> Any:
        config = {"number": number, **POINT}
        trial = SimpleNamespace(config=config, last_result={}, get_error=lambda: "Traceback\nOops")
        self.recorder.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, trained: float, score: float, state: str, **more: Any) -> None:
        figures = {"bits": 8e6, "members": 2, "seconds": 1.5, "note": ""}
        trial.last_result = {"trained": trained, "score": score, "state": state} | figures | more
        self.recorder.on_trial_result(0, [], trial, trial.last_result)

    @property
    def records(self) -> list[Record]:
        return read_records(self.sweep.directory)


@pytest.fixture
def following(tmp_path: Path) -> Following:
    return Following(tmp_path)


def test_a_trial_is_kept_from_its_start_on(following: Following) -> None:
    following.start(0)
    assert following.records == [Record(0, POINT)]
    assert following.lines == ["trial 000: member.learning_rate 0.0001"]


def test_a_trial_that_is_done(following: Following) -> None:
    trial = following.start(0)
    following.report(trial, 1.0, 0.7, "running")
    following.report(trial, 2.0, 0.8, "done")
    assert following.records[0].state == "running"
    following.recorder.on_trial_complete(0, [], trial)
    [record] = following.records
    assert (record.state, record.score, record.members) == ("done", 0.8, 2)
    assert record.reports == [(1.0, 0.7), (2.0, 0.8)]
    assert following.lines[1:] == [
        "trial 000: held-out 0.7000 with 2 members",
        "trial 000: done, held-out 0.8000 with 2 members (1 of 3, best: trial 000, 0.8000)",
    ]


def test_how_other_trials_end(following: Following) -> None:
    stopped, diverged, failed, again, lost = map(following.start, range(5))
    following.report(stopped, 1.0, 0.7, "running")
    following.report(diverged, 0.0, 0.0, "diverged", note="the loss became nan")
    following.report(failed, 0.0, 0.0, "failed", note="the disk is full")
    following.report(again, 1.0, 0.7, "stopped", repeats=0)
    for trial in (stopped, diverged, failed, again):
        following.recorder.on_trial_complete(0, [], trial)
    following.recorder.on_trial_error(0, [], lost)
    states = [(each.state, each.is_final, each.note) for each in following.records]
    assert states == [
        ("stopped", True, "others were better by then"),
        ("diverged", True, "the loss became nan"),
        ("failed", False, "the disk is full"),
        ("stopped", True, ""),
        ("failed", False, "Oops"),
    ]
    assert following.records[3].repeats == 0
    told = following.lines[-5:]
    assert told[1] == (
        "trial 001: diverged, and counts as 0, the worst score: the loss became nan (2 of 3)"
    )
    assert told[3].startswith("trial 003: the same settings as trial 000")


def test_a_trial_that_begins_again_reports_anew(following: Following) -> None:
    following.report(following.start(0), 1.0, 0.7, "running")
    trial = following.start(0)
    following.report(trial, 1.0, 0.7, "running")
    following.recorder.on_trial_complete(0, [], trial)
    assert following.records[0].reports == [(1.0, 0.7)]


def test_people_are_told_once_if_no_trial_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = Following(tmp_path)
    told, recorder = following.lines, following.recorder
    waits, runs = SimpleNamespace(status="PENDING"), SimpleNamespace(status="RUNNING")
    seconds = iter([*range(122), 200, 400, 600])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    for trial in (*[waits] * 60, runs, *[waits] * 61):
        recorder.on_step_end(0, [trial])
    assert told == []
    for _ in range(3):
        recorder.on_step_end(0, [waits])
    assert told == ["no trial has begun: they wait until the cluster has room for one"]
