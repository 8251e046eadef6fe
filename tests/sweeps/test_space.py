import re
from typing import Any

import optuna
import pytest

from bebert_ray.config.check import Entry
from bebert_ray.sweeps.space import COMBINATIONS, corners, own_point, read_space, settings_at

ALL = {
    "member.learning_rate.loguniform": [5e-5, 1e-3],
    "ensemble.learning_rate.uniform": [0.1, 1],
    "ensemble.floor.quniform": [0, 0.5, 0.1],
    "member.epochs.randint": [2, 4],
    "ensemble.strategy.choice": ["A", "B"],
    "ensemble.choice": [{"method": "bagging"}, {"method": "boosting", "schedule": "pipelined"}],
}


def read(ranges: dict[str, Any], where: str = "s.yaml, line 9") -> tuple[Any, list[str]]:
    problems: list[str] = []
    return read_space(
        {key: Entry(value, where) for key, value in ranges.items()}, problems
    ), problems


@pytest.fixture
def space() -> Any:
    space, problems = read(ALL)
    assert problems == []
    return space


def test_optuna_draws_from_each_range_and_both_ends_belong_to_it(space: Any) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = []
    for _ in range(300):
        trial = study.ask()
        points.append({dimension.key: dimension.suggest(trial) for dimension in space})
        assert all(dimension.holds(points[-1][dimension.key]) for dimension in space)
    drawn = {dimension.key: {point[dimension.key] for point in points} for dimension in space}
    assert drawn["member.epochs"] == {2, 3, 4}
    assert sorted(drawn["ensemble.floor"]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert drawn["ensemble.strategy"] == {"A", "B"}
    assert drawn["ensemble"] == {"method=bagging", "method=boosting, schedule=pipelined"}
    below = sum(rate < 2.2e-4 for rate in drawn["member.learning_rate"])  # the geometric middle
    assert 120 < below < 180


def test_what_a_point_sets(space: Any) -> None:
    point = {dimension.key: dimension.ends[-1] for dimension in space}
    settings = {key: entry.value for key, entry in settings_at(space, point).items()}
    assert settings == {
        "member.learning_rate": 1e-3,
        "ensemble.learning_rate": 1,
        "ensemble.floor": 0.5,
        "member.epochs": 4,
        "ensemble.strategy": "B",
        "ensemble.method": "boosting",
        "ensemble.schedule": "pipelined",
    }


def test_the_point_of_a_configuration_leaves_out_what_is_not_in_the_space(space: Any) -> None:
    config = {
        "member.learning_rate": 1e-4,
        "ensemble.learning_rate": 0.05,  # below the range
        "ensemble.floor": 0.25,  # between two steps
        "member.epochs": 3,
        "ensemble.strategy": "C",
        "ensemble.method": "boosting",
        "ensemble.schedule": "pipelined",
    }
    assert own_point(space, config) == {
        "member.learning_rate": 1e-4,
        "member.epochs": 3,
        "ensemble": "method=boosting, schedule=pipelined",
    }
    assert own_point(space, config | {"ensemble.floor": 0.3})["ensemble.floor"] == 0.3


def test_corners_are_all_combinations_of_ends_or_many(space: Any) -> None:
    assert len(list(corners(space))) == 2**6
    ten, _ = read({f"{key}.uniform": [0, 1] for key in (
        "ensemble.floor", "ensemble.learning_rate", "ensemble.folds", "ensemble.members",
        "ensemble.rounds", "member.epochs", "member.learning_rate", "member.batch_size",
        "member.warmup", "member.hidden_epochs",
    )})  # fmt: skip
    points = list(corners(ten))
    assert len(points) == COMBINATIONS
    assert points == list(corners(ten)), "seeded"
    assert all({0, 1} == {point[dimension.key] for point in points} for dimension in ten)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"member.epochs.randint": [3, 1]}, r"epochs\.randint = \[3, 1\]: is empty: low must be"),
        ({"member.epochs.randint": [2, 2]}, "is empty"),
        ({"member.epochs.randint": [1, 2.5]}, "must be whole numbers"),
        ({"member.epochs.randint": 3}, r"must be \[low, high\], in numbers"),
        ({"member.warmup.uniform": [0, 0.1, 0.2]}, r"must be \[low, high\], in numbers"),
        ({"member.warmup.uniform": [0, "a"]}, "in numbers"),
        ({"member.warmup.uniform": [0, float("inf")]}, "in numbers"),
        ({"member.warmup.uniform": [False, True]}, "in numbers"),
        ({"member.learning_rate.loguniform": [0, 1e-3]}, "must begin above 0"),
        ({"ensemble.floor.quniform": [0, 0.5, 0.2]}, r"steps of 0\.2 from 0 do not lead to 0\.5"),
        ({"ensemble.floor.quniform": [0, 0.5, 0]}, "needs a step above 0"),
        ({"ensemble.strategy.choice": []}, "must be a list, of one value or more"),
        ({"ensemble.strategy.choice": "A"}, "must be a list"),
        ({"ensemble.strategy.choice": [["A"]]}, "a list of plain values"),
        ({"ensemble.strategy.choice": ["A", "A"]}, "a choice is there twice"),
        ({"ensemble.uniform": [0, 1]}, "ensemble is a section; give choice"),
        ({"ensemble.choice": ["bagging"]}, "ensemble is a section; give choice"),
        ({"ensemble.choice": [{}]}, "ensemble is a section"),
        (
            {"ensemble.choice": [{"mehtod": "bagging"}]},
            r"ensemble\.mehtod is unknown; did you",
        ),
        ({"ensemble.choice": 2 * [{"members": 2}]}, "a choice is there twice"),
        ({"member.epochs": 3}, r"sweep\.space\.member\.epochs: must be a range, such as"),
        ({"member.epohcs.randint": [1, 2]}, r"unknown key; did you mean member\.epochs"),
        ({"width.uniform": [0.2, 1]}, r"space\.width: cannot be searched: trials share"),
        ({"teacher.epochs.randint": [1, 2]}, r"cannot be searched.*; search member\.epochs"),
        ({"training.warmup.uniform": [0, 1]}, r"cannot be searched.*; search member\.warmup"),
        ({"binary.choice": [{"epochs": 2}]}, "cannot be searched"),
        ({"ensemble.trunks.randint": [1, 2]}, r"trunks: cannot be searched: trials share"),
        ({"ensemble.choice": [{"distill": True}]}, r"distill cannot be searched: trials train"),
        (
            {"ensemble.members.randint": [2, 4], "ensemble.choice": [{"members": 2}]},
            r"space\.ensemble: ensemble\.members is searched twice",
        ),
        (
            {"member.epochs.randint": [1, 2], "member.epochs.choice": [1, 2]},
            r"space\.member\.epochs: is given twice",
        ),
    ],
)
def test_a_bad_range_is_one_line_with_its_place(ranges: dict[str, Any], message: str) -> None:
    _, problems = read(ranges)
    assert len(problems) == 1
    assert re.search(message, problems[0])
    assert problems[0].endswith("(s.yaml, line 9)")
