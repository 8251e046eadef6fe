"""The newest checkpoint that is whole and of this step counts; the others do not get in its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bebert_ray.storage import Location, fetch, names
from bebert_ray.training.checkpoints import Checkpoints, State

INPUTS = {"weights": "w0 w1 w2"}
EARLIER = ({"weights": "w0"}, {"weights": "w0 w1"})


def state(number: int) -> State:
    tensors = {"model.weight": torch.full((3, 2), float(number)), "rng.cpu": torch.get_rng_state()}
    return State({"phase": 0, "epoch": number, "best_score": None}, tensors)


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "checkpoints" / "000")


@pytest.fixture
def opened(place: Location) -> Callable[..., tuple[Checkpoints, list[str]]]:
    """The checkpoints as a new process sees them, and what it is told of them."""

    def opened(
        inputs: dict[str, Any] = INPUTS, earlier: tuple[dict[str, Any], ...] = EARLIER
    ) -> tuple[Checkpoints, list[str]]:
        notes: list[str] = []
        return Checkpoints(place, inputs, earlier, notes.append), notes

    return opened


def put(place: Location, number: int, inputs: dict[str, Any] = INPUTS) -> Path:
    """Leave checkpoint `number` there beside others, as two processes at a time would."""
    elsewhere = Checkpoints(place.parent / "elsewhere", inputs)
    elsewhere.save(state(number))
    [made] = names(elsewhere.place)
    target = place.local / str(number)
    target.parent.mkdir(parents=True, exist_ok=True)
    return (elsewhere.place.local / made).rename(target)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_at_first_there_is_none(opened: Any, place: Location) -> None:
    checkpoints, notes = opened()
    assert checkpoints.found is None
    assert 0 <= checkpoints.seconds < 5
    assert not notes and not place.local.exists()


def test_what_is_loaded_is_what_was_saved_and_survives_its_file(opened: Any) -> None:
    saved = state(1)
    opened()[0].save(saved)
    checkpoints, _ = opened()
    loaded = checkpoints.load()
    assert loaded.facts.items() >= saved.facts.items()
    assert loaded.tensors.keys() == saved.tensors.keys()
    checkpoints.clear()
    for name, tensor in saved.tensors.items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_only_the_newest_is_kept(opened: Any, place: Location) -> None:
    checkpoints, _ = opened()
    for number in range(12):  # 10 comes after 9, not after 1
        checkpoints.save(state(number))
        assert len(names(place)) == 1
    later, _ = opened()
    assert later.load().facts["epoch"] == 11
    later.save(state(12))
    assert opened()[0].load().facts["epoch"] == 12
    assert len(names(place)) == 1


def test_the_newest_counts_and_numbers_are_numbers(opened: Any, place: Location) -> None:
    for number in (2, 9, 10):
        put(place, number)
    assert opened()[0].load().facts["epoch"] == 10


@pytest.mark.parametrize("file", ["state.safetensors", "artifact.json"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_a_damaged_one_is_told_of_and_the_one_before_counts(
    opened: Any, place: Location, damage: Callable[[Path], None], file: str
) -> None:
    put(place, 3)
    newest = put(place, 4)
    damage(newest / file)
    checkpoints, notes = opened()
    assert checkpoints.load().facts["epoch"] == 3
    if damage is Path.unlink and file == "artifact.json":
        assert not notes, "without a record there is nothing: a draft, or one being deleted"
    else:
        what = "missing" if damage is Path.unlink else "not as it was written"
        assert notes == [f"{newest} is damaged: {file} is {what}; going on without it"]
    checkpoints.save(state(5))
    assert names(place) == {"5"}
    assert opened()[0].load().facts["epoch"] == 5


def test_a_damaged_only_one_leaves_none(opened: Any, place: Location) -> None:
    flip(put(place, 0) / "state.safetensors")
    checkpoints, notes = opened()
    assert checkpoints.found is None
    assert len(notes) == 1
    checkpoints.save(state(1))
    assert opened()[0].load().facts["epoch"] == 1


def test_those_of_other_inputs_are_no_concern(opened: Any, place: Location) -> None:
    put(place, 7, {"weights": "others"})
    checkpoints, notes = opened()
    assert (checkpoints.found, notes) == (None, [])
    put(place, 6)
    assert opened()[0].load().facts["epoch"] == 6
    checkpoints.save(state(8))
    assert names(place) == {"8"}, "what no step can use does not stay"


def test_those_of_earlier_rounds_serve_and_those_of_later_ones_do_not(
    opened: Any, place: Location
) -> None:
    put(place, 0, EARLIER[0])
    assert opened()[0].load().facts["epoch"] == 0
    put(place, 1, EARLIER[1])
    assert opened()[0].load().facts["epoch"] == 1
    put(place, 2)
    assert opened()[0].load().facts["epoch"] == 2
    assert opened(EARLIER[0], ())[0].load().facts["epoch"] == 0


def test_a_damaged_one_of_an_earlier_round_is_told_of_once(opened: Any, place: Location) -> None:
    flip(put(place, 1, EARLIER[0]) / "state.safetensors")
    checkpoints, notes = opened()
    assert checkpoints.found is None
    assert len(notes) == 1


def test_seconds_add_up_over_processes(opened: Any) -> None:
    for _ in range(3):
        checkpoints, _ = opened()
        time.sleep(0.1)
        checkpoints.save(state(0))
        time.sleep(0.5)  # lost with the process
    last, _ = opened()
    assert 0.3 <= last.seconds < 0.7
    assert last.found is not None
    assert 0.3 <= last.found.facts["seconds"] <= last.seconds


def test_the_record_says_what_it_is(opened: Any, place: Location) -> None:
    opened()[0].save(state(0))
    record = fetch(place / "0")
    assert (record.stage, record.inputs) == ("checkpoint", INPUTS)


def test_tensors_may_be_views(opened: Any) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    opened()[0].save(State({}, {"model.a": whole.T, "model.b": torch.arange(4.0)[::2]}))
    loaded = opened()[0].load().tensors
    assert torch.equal(loaded["model.a"], whole.T)
    assert loaded["model.b"].tolist() == [0, 2]
