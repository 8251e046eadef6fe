import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bebert_ray.errors import UserError
from bebert_ray.storage import Location
from bebert_ray.storage.records import sealed
from bebert_ray.sweeps.records import (
    SCORE,
    SCORE_AND_BITS,
    Record,
    best_of,
    pareto_front,
    read_records,
    study_of,
    write_record,
)
from bebert_ray.sweeps.settings import load_sweep

RATE = "sweep.space.member.learning_rate.loguniform=[5e-5, 1e-3]"
METHOD = "sweep.space.ensemble.choice=[{method: bagging}, {method: boosting}]"


def record(
    number: int, state: Any = "done", score: float = 0.5, bits: int = 8, **more: Any
) -> Record:
    point = {"member.learning_rate": 1e-4 * (number + 1), "ensemble": "method=bagging"}
    reports = [(1.0, score - 0.1), (2.0, score)]
    return Record(number, point, state, score, bits, reports=reports, **more)


def test_records_are_read_back_in_order(tmp_path: Path) -> None:
    sweep = Location.of(tmp_path)
    assert read_records(sweep) == []
    some = [record(1), Record(0, {"a": 1}), record(12, "failed", note="no room")]
    for each in some:
        write_record(sweep, each)
    (tmp_path / "trials" / "001").mkdir()
    read = read_records(sweep)
    assert [each.number for each in read] == [0, 1, 12]
    assert json.dumps([vars(each) for each in read]) == json.dumps(
        [vars(each) for each in sorted(some, key=lambda each: each.number)]
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-30], "is damaged"),
        (lambda text: "", "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: "[" * 100_000, "is damaged: its values are nested too deep"),
        (lambda text: text.replace('"score": 0.5', '"score": 0.6'), "not as it was written"),
        (lambda text: text.replace('"number": 3', '"number": 4'), "not as it was written"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "made by a newer version"),
        (lambda text: resealed(text, number=4), "is the record of trial 004"),
        (lambda text: resealed(text, state="asleep"), "is wrong"),
        (lambda text: resealed(text, reports=3), "is wrong"),
        (lambda text: resealed(text, more=3), "is wrong"),
    ],
)
def test_a_torn_or_altered_record_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    sweep = Location.of(tmp_path)
    write_record(sweep, record(3))
    place = tmp_path / "trials" / "003.json"
    place.write_text(damage(place.read_text()))
    before = place.read_bytes()
    with pytest.raises(UserError, match=rf"003\.json .*{message}") as refusal:
        read_records(sweep)
    assert len(str(refusal.value)) < 500
    assert place.read_bytes() == before


def resealed(text: str, **changed: Any) -> str:
    entries = json.loads(text) | changed
    del entries["checksum"]
    return json.dumps(sealed(entries, "bebert-trial", 1))


@pytest.mark.parametrize(
    ("state", "final"),
    [("running", 0), ("done", 1), ("stopped", 1), ("diverged", 1), ("failed", 0)],
)
def test_what_is_not_tried_again(state: Any, final: int) -> None:
    assert record(0, state).is_final == final


def test_optuna_knows_of_every_trial_that_came_to_an_end() -> None:
    sweep = load_sweep(None, ["task=demo", RATE, METHOD])
    records = [
        record(0),
        record(1, "stopped", 0.3),
        record(2, "running"),
        record(4, "diverged", 0.0),
        record(5, "failed"),
    ]
    trials = study_of(sweep, records, SCORE).trials
    states = [(trial.user_attrs["number"], trial.state, trial.values) for trial in trials]
    assert states == [
        (0, TrialState.COMPLETE, [0.5]),
        (1, TrialState.PRUNED, None),
        (4, TrialState.COMPLETE, [0.0]),
    ]
    assert trials[0].params == records[0].point
    assert trials[1].intermediate_values == pytest.approx({1: 0.2, 2: 0.3})
    both = study_of(sweep, records, SCORE_AND_BITS).trials
    assert {trial.state for trial in both} == {TrialState.COMPLETE}
    assert [trial.values for trial in both] == [[0.5, 8], [0.3, 8], [0.0, 8]]


def test_the_best_trial_is_done_and_scores_highest_then_is_smallest_then_first() -> None:
    assert best_of([record(0, "stopped", 0.9), record(1, "running")]) is None
    some = [record(0, score=0.8, bits=9), record(1, score=0.8), record(2, score=0.8)]
    assert best_of([*some, record(3, score=0.7), record(4, "stopped", 0.9)]) is some[1]
    assert best_of([record(3, score=0.9, repeats=0), *some]) is some[1]


def test_the_front_holds_what_none_beats_in_both() -> None:
    some = [
        record(0, score=0.7, bits=8),
        record(1, score=0.8, bits=16),
        record(2, score=0.8, bits=24),  # larger than 1, and no better
        record(3, score=0.75, bits=16),
        record(4, score=0.9, bits=32),
        record(5, "diverged", 0.95, 1),
    ]
    assert [each.number for each in pareto_front(some)] == [0, 1, 4]


def test_the_reason_of_a_traceback_is_a_line() -> None:
    note = "member 000 failed, with a mistake of ours:\n  File ...\nAttributeError: no such thing\n"
    failed = record(0, "failed", note=note)
    assert failed.reason == (
        "member 000 failed, with a mistake of ours: AttributeError: no such thing"
    )
    assert record(0, "failed", note="no room").reason == "no room"
    assert record(0).reason == ""
