from pathlib import Path

import pytest

from bebert_ray.config import load_config, to_dict
from bebert_ray.errors import UserError
from bebert_ray.sweeps.settings import load_sweep

RATE = "sweep.space.member.learning_rate.loguniform=[5e-5, 1e-3]"


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_sweep(None, ["task=demo", *overrides])
    return str(error.value)


def test_a_sweep_is_a_run_with_a_section_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "task: demo\nmember:\n  epochs: 2\nsweep:\n  trials: 3\n  space:\n"
        "    member.epochs: {randint: [1, 3]}\n    ensemble.strategy: {choice: [A, B]}\n"
    )
    overrides = ("ensemble.members=2", "ensemble.strategy=A")
    sweep = load_sweep(path, [*overrides, "sweep.space.ensemble.strategy.choice=[B, C]"])
    assert sweep.settings.trials == 3
    assert sweep.size == sweep.config.ensemble.members == 2
    assert sweep.first_point == {"member.epochs": 2}  # strategy A is not in the space
    assert sweep.to_dict()["space"] == {
        "member.epochs": {"randint": [1, 3]},
        "ensemble.strategy": {"choice": ["B", "C"]},
    }
    assert sweep.config.output == "runs/sweep_demo"
    assert sweep.shared().output == "runs/sweep_demo/shared"
    assert sweep.directory.local == Path.cwd() / "runs" / "sweep_demo"


def test_a_range_of_another_kind_on_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("task: demo\nsweep:\n  space:\n    member.epochs: {randint: [1, 3]}\n")
    sweep = load_sweep(path, ["sweep.space.member.epochs.choice=[2, 5]"])
    assert sweep.to_dict()["space"] == {"member.epochs": {"choice": [2, 5]}}


def test_a_trial_differs_from_the_run_in_its_point_and_its_directory() -> None:
    overrides = ["task=demo", "output=/x", "fresh=true", "member.epochs=2"]
    methods = "sweep.space.ensemble.choice=[{method: bagging}, {method: boosting}]"
    sweep = load_sweep(None, [*overrides, RATE, methods])
    config = sweep.trial(7, {"member.learning_rate": 2e-4, "ensemble": "method=bagging"})
    expected = load_config(
        None,
        [
            *("task=demo", "member.epochs=2", "member.learning_rate=2e-4"),
            *("ensemble.method=bagging", "output=/x/trials/007"),
        ],
    )
    assert to_dict(config) == to_dict(expected), "the schedule follows from the method"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "sweep.space: is empty; give what to search"),
        ([RATE, "sweep.trails=3"], "sweep.trails: unknown key; did you mean sweep.trials?"),
        ([RATE, "sweep.trials=0"], "sweep.trials = 0: must be a whole number, at least 1"),
        ([RATE, "sweep=3"], "sweep: is a section, set keys in it (sweep.trials, …)"),
        ([RATE, "sweep.objective=bits"], "must be one of score, score-and-bits"),
        ([RATE, "membre.epochs=1"], "membre.epochs: unknown key"),
        ([RATE, "output=s3://bucket/x"], "output: trials link to what they share"),
        ([RATE, "selection=dev"], "selection: a sweep chooses"),
        (
            ["sweep.space.member.epochs.uniform=[1, 3]"],
            "in some trials, member.epochs = 1.0: must be a whole number, at least 1",
        ),
        (
            ["sweep.space.member.warmup.uniform=[0, 2]"],
            "in some trials, member.warmup = 2.0: must be a number, at least 0 and at most 1",
        ),
        (
            [
                "sweep.space.ensemble.method.choice=[bagging, boosting]",
                "sweep.space.ensemble.schedule.choice=[sequential, pipelined]",
            ],
            "in some trials, ensemble.schedule: bagging members need nothing of each other",
        ),
    ],
)
def test_what_cannot_be_swept(overrides: list[str], expected: str) -> None:
    assert expected in message(*overrides)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bebert_ray.sweeps.settings.find_spec", lambda _: None)
    assert f"pip install 'bebert_ray[{name}]'" in message(RATE, f"sweep.{name}=true")


def test_problems_of_the_run_the_search_and_the_space_are_told_at_once() -> None:
    lines = message("width=7", "sweep.trials=x", "sweep.space.width.uniform=[0, 1]").splitlines()
    assert len(lines) == 4


def test_two_ranges_of_one_key_in_a_dictionary_are_one_too_many() -> None:
    rates = {"uniform": [1e-5, 1e-3], "choice": [1e-4]}
    with pytest.raises(UserError, match=r"learning_rate: is given twice \(argument\)"):
        load_sweep(None, {"task": "demo", "sweep": {"space": {"member.learning_rate": rates}}})
