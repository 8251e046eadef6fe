import pytest
from pydantic import ValidationError

from bebert_ray.config import Config, DataConfig, EnsembleConfig


def test_only_the_task_is_required():
    with pytest.raises(ValidationError, match="task"):
        Config()
    assert Config(task="mrpc").ensemble.members == 4


@pytest.mark.parametrize("name", ["SST-2", "sst2", "sst_2", " Sst-2 "])
def test_task_names_are_normalised(name):
    assert Config(task=name).task == "sst2"


def test_the_output_follows_the_task_unless_given():
    assert Config(task="STS-B").output == "runs/stsb"
    assert Config(task="stsb", output=None).output == "runs/stsb"
    assert Config(task="stsb", output="here").output == "here"


@pytest.mark.parametrize(
    ("method", "schedule"), [("boosting", "sequential"), ("bagging", "parallel")]
)
def test_the_schedule_follows_the_method_unless_given(method, schedule):
    assert EnsembleConfig(method=method).schedule == schedule
    assert EnsembleConfig(method=method, schedule=None).schedule == schedule
    assert EnsembleConfig(method=method, schedule="sequential").schedule == "sequential"


@pytest.mark.parametrize(
    ("schedule", "rounds", "epochs", "expected"),
    [
        ("sequential", None, 6, 1),
        ("pipelined", None, 6, 6),  # one an epoch
        ("pipelined", 6, 6, 6),
        ("pipelined", 3, 6, 3),
        ("pipelined", 2, 6, 2),
    ],
)
def test_a_member_trains_in_one_round_unless_pipelined(schedule, rounds, epochs, expected):
    ensemble = EnsembleConfig(schedule=schedule, rounds=rounds)
    assert Config(task="mrpc", ensemble=ensemble, member={"epochs": epochs}).rounds == expected
    assert Config(task="mrpc", ensemble={"method": "bagging"}).rounds == 1


def test_the_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = Config(task="mrpc", output="~/runs", data=DataConfig(path="~/glue"))
    assert (config.output, config.data.path) == ("/home/ada/runs", "/home/ada/glue")


def test_a_config_is_frozen_and_hashable():
    config = Config(task="mrpc")
    with pytest.raises(AttributeError):
        config.seed = 1
    assert hash(config) == hash(Config(task="mrpc"))


def test_a_contradiction_is_refused_without_a_file_too():
    with pytest.raises(ValidationError, match=r"ensemble\.schedule: boosting cannot be parallel"):
        Config(task="mrpc", ensemble=EnsembleConfig(schedule="parallel"))
