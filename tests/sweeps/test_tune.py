"""What optuna and ASHA know when a search begins, and when it goes on; without Ray's processes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.error import TuneError
from ray.tune.schedulers import FIFOScheduler

from bebert_ray.errors import RunError
from bebert_ray.sweeps.records import Record
from bebert_ray.sweeps.settings import Sweep, load_sweep
from bebert_ray.sweeps.tune import _explained, _scheduler, _searcher


def make_sweep(*overrides: str) -> Sweep:
    return load_sweep(
        None,
        [
            *("task=demo", "member.learning_rate=2e-4", "sweep.trials=6"),
            "sweep.space.member.learning_rate.loguniform=[1e-5, 1e-3]",
            "sweep.space.ensemble.members.randint=[1, 8]",
            *overrides,
        ],
    )


def record(number: int, state: Any, score: float | None = None, *reports: float) -> Record:
    point = {"member.learning_rate": 1e-4 + number * 1e-5, "ensemble.members": 2}
    pairs = [(float(trained), value) for trained, value in enumerate(reports, start=1)]
    return Record(number, point, state, score, bits=8, reports=pairs)


def suggestions(sweep: Sweep, records: list[Record], count: int) -> list[dict[str, Any]]:
    searcher = _searcher(sweep, records)
    return [searcher.suggest(f"tune-{number}") for number in range(count)]


def test_the_first_trial_is_the_configuration_itself() -> None:
    first, second, _ = suggestions(make_sweep(), [], 3)
    assert first == {"number": 0, "member.learning_rate": 2e-4, "ensemble.members": 4}
    assert second["number"] == 1
    assert second != first | {"number": 1}


def test_the_first_trial_has_a_choice_of_null_if_the_configuration_has() -> None:
    choice = "sweep.space.member.warmup.choice=[null, 0.3]"
    [first] = suggestions(make_sweep(choice), [], 1)
    assert first["member.warmup"] is None
    [first] = suggestions(make_sweep(choice, "member.warmup=0.3"), [], 1)
    assert first["member.warmup"] == 0.3


@pytest.mark.parametrize("error", [TuneError("Traceback:\n  x\nOSError: full"), OSError("full")])
def test_what_tune_could_not_go_on_with_is_told_in_a_line(error: Exception) -> None:
    expected = pytest.raises(RunError, match=r"broke off: (OSError: )?full; the same")
    with expected as told, _explained():
        raise error
    assert "\n" not in str(told.value)


def test_the_seed_decides() -> None:
    one, again = (suggestions(make_sweep(), [], 4) for _ in range(2))
    assert one == again
    assert one[1:] != suggestions(make_sweep("seed=7"), [], 4)[1:]


def test_a_search_goes_on_with_what_was_cut_off_and_numbers_not_used() -> None:
    records = [record(0, "done", 0.8), record(2, "running"), record(3, "failed", 0.0)]
    two, three, *new = suggestions(make_sweep(), records, 4)
    assert two == {"number": 2, **records[1].point}
    assert three == {"number": 3, **records[2].point}
    assert [each["number"] for each in new] == [1, 4]


def test_optuna_learns_from_the_trials_before() -> None:
    good = [record(number, "done", 0.9) for number in range(8)]  # near 1e-4
    far = [
        Record(8 + n, {"member.learning_rate": 1e-3, "ensemble.members": 8}, "done", 0.1, 8)
        for n in range(8)
    ]
    sweep = make_sweep("sweep.trials=40")
    rates = [each["member.learning_rate"] for each in suggestions(sweep, good + far, 12)]
    assert sum(rate < 4e-4 for rate in rates) > 8


def test_bits_are_minimised_too_if_asked_for() -> None:
    searcher = _searcher(make_sweep("sweep.objective=score-and-bits"), [])
    assert (searcher.metric, searcher.mode) == (["score", "bits"], ["max", "min"])
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"score": 0.8, "bits": 100})
    [trial] = searcher._ot_study.trials
    assert trial.values == [0.8, 100]


@pytest.mark.parametrize("objective", ["score", "score-and-bits"])
def test_a_search_goes_on_after_trials_that_ended_in_every_way(objective: str) -> None:
    ended = [record(0, "done", 0.8, 0.7, 0.8), record(1, "stopped", 0.6, 0.6)]
    ended += [record(2, "diverged", 0.0, 0.0), record(3, "stopped", 0.5, 0.7, 0.5)]
    sweep = make_sweep("sweep.trials=9", f"sweep.objective={objective}")  # the model's turn after 3
    new = suggestions(sweep, ended, 5)
    assert [each["number"] for each in new] == [4, 5, 6, 7, 8]


def decide(asha: Any, name: str, *reports: tuple[float, float]) -> list[str]:
    trial = SimpleNamespace(trial_id=name)
    asha.on_trial_add(None, trial)
    return [
        asha.on_trial_result(None, trial, {"trained": trained, "score": score})
        for trained, score in reports
    ]


def test_a_trial_is_stopped_if_earlier_ones_were_better_after_as_many_members() -> None:
    sweep, earlier = make_sweep(), [record(0, "done", 0.9, 0.7, 0.8, 0.85, 0.9)]
    assert decide(_scheduler(sweep, []), "new", (1, 0.6), (2, 0.8)) == ["CONTINUE", "CONTINUE"]
    assert decide(_scheduler(sweep, earlier), "new", (1, 0.6)) == ["STOP"]
    assert decide(_scheduler(sweep, earlier), "new", (1, 0.7), (2, 0.79)) == ["CONTINUE", "STOP"]
    good = [(1.0, 0.7), (2.0, 0.8), (3.0, 0.1), (4.0, 0.95), (8.0, 0.1)]
    assert set(decide(_scheduler(sweep, earlier), "new", *good)) == {"CONTINUE"}
    # A pipelined trial has half of each of eight members after its first round of two.
    assert decide(_scheduler(sweep, earlier), "new", (4, 0.89)) == ["STOP"]


def test_no_trial_is_stopped_early_unless_asked_for(tmp_path: Path) -> None:
    scheduler = _scheduler(make_sweep("sweep.early_stopping=false"), [])
    assert isinstance(scheduler, FIFOScheduler)
