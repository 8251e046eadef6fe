import json
from dataclasses import replace
from pathlib import Path

import pytest

from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import keep_config
from bebert_ray.storage import Location, lock
from bebert_ray.sweeps.directory import check_data, check_directory, open_directory, plan, to_run
from bebert_ray.sweeps.records import Record
from bebert_ray.sweeps.settings import Sweep, load_sweep

from .conftest import Trained

RATE = "sweep.space.member.learning_rate.loguniform=[5e-5, 1e-3]"


def sweep_in(directory: Path, *overrides: str) -> Sweep:
    return load_sweep(None, ["task=demo", RATE, f"output={directory}", *overrides])


def refused(sweep: Sweep) -> str:
    with pytest.raises(UserError) as error:
        check_directory(sweep)
    return str(error.value)


def test_an_empty_directory_and_its_own_are_fine(tmp_path: Path) -> None:
    check_directory(sweep_in(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / ".lock").touch()
    open_directory(sweep_in(tmp_path))
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert kept["space"] == {"member.learning_rate": {"loguniform": [5e-5, 1e-3]}}
    check_directory(sweep_in(tmp_path))


def test_more_trials_other_machines_and_another_objective_are_the_same_sweep(
    tmp_path: Path,
) -> None:
    open_directory(sweep_in(tmp_path))
    changes = ("sweep.trials=30", "resources.member.cpu=1", "sweep.objective=score-and-bits")
    check_directory(sweep_in(tmp_path, *changes))


def test_another_run_or_another_space_is_another_sweep(tmp_path: Path) -> None:
    open_directory(sweep_in(tmp_path))
    message = refused(sweep_in(tmp_path, "seed=7", RATE.replace("1e-3", "2e-3")))
    assert "  run.seed: 42 there, 7 here\n" in message
    key = "space.member.learning_rate.loguniform"
    assert f"  {key}: [5e-05, 0.001] there, [5e-05, 0.002] here\n" in message
    assert "fresh=true" in message


def test_a_directory_that_is_no_sweep(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overrides in ((), ("fresh=true",)):
        assert "not empty and not a sweep" in refused(sweep_in(tmp_path, *overrides))


@pytest.mark.parametrize("name", ["best", "sweep.json"])
def test_things_of_others_under_our_names_are_not_deleted(tmp_path: Path, name: str) -> None:
    """`fresh=true` deletes what a sweep leaves: only where a sweep has left it."""
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "photo.jpg").touch()
    if name == "sweep.json":
        (tmp_path / name).write_text('{"clean": true}')
    before = sorted(tmp_path.rglob("*"))
    for overrides in ((), ("fresh=true",)):
        assert "sweep" in refused(sweep_in(tmp_path, *overrides))
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_settings(tmp_path: Path) -> None:
    open_directory(sweep_in(tmp_path))
    for content in ("{", "[]"):
        (tmp_path / "sweep.json").write_text(content)
        assert "sweep.json is damaged" in refused(sweep_in(tmp_path))
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "trials").mkdir()
    shared = sweep_in(tmp_path).shared()
    keep_config(shared, Location.of(Path(shared.output)))
    check_directory(sweep_in(tmp_path))  # what is left is a sweep's


def test_other_data_under_the_same_name_are_another_sweep(trained: Trained) -> None:
    check_data(trained.sweep, trained.shared)
    other = replace(trained.shared, data=trained.shared.data | {"corpus": "another"})
    with pytest.raises(UserError, match=r"of other data .*\(inputs changed: corpus\)"):
        check_data(trained.sweep, other)
    check_data(replace(trained.sweep, config=replace(trained.sweep.config, fresh=True)), other)


def test_what_is_run_again_when_fewer_trials_are_asked_for(tmp_path: Path) -> None:
    records = [Record(0, {}, "done"), Record(1, {}, "failed"), Record(2, {}), Record(3, {}, "done")]
    for trials, numbers in ((2, []), (3, [1]), (4, [1, 2]), (9, [1, 2])):
        sweep = sweep_in(tmp_path, f"sweep.trials={trials}")
        assert [record.number for record in to_run(sweep, records)] == numbers


def test_the_plan(trained: Trained) -> None:
    states = plan(trained.sweep, trained.shared)
    assert states == {
        **dict.fromkeys(("data", "teacher", "half", "ternary", "split"), "done"),
        **{"trial 000": "done", "trial 001": "done", "trial 002": "stopped"},
    }


def test_fresh_starts_over(tmp_path: Path) -> None:
    open_directory(sweep_in(tmp_path))
    for name in ("shared", "trials"):
        (tmp_path / name).mkdir()
    open_directory(sweep_in(tmp_path, "fresh=true", "seed=7"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json"]
    assert json.loads((tmp_path / "sweep.json").read_text())["run"]["seed"] == 7


def test_a_trial_that_somebody_trains_is_left_alone(tmp_path: Path) -> None:
    open_directory(sweep_in(tmp_path))
    trial = tmp_path / "trials" / "003"
    draft = trial / "members" / "000.0.tmp"
    for overrides in ((), ("fresh=true",)):
        with lock(trial):
            draft.mkdir(parents=True, exist_ok=True)
            with pytest.raises(UserError, match=r"trials/003 is in use by process \d+"):
                open_directory(sweep_in(tmp_path, *overrides))
            assert draft.exists()
