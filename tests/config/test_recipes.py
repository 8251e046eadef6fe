"""Kinds of members: the stages that each shares."""

import subprocess
import sys

import pytest

from bebert_ray.config import Config, load_config
from bebert_ray.config.recipes import KINDS, STAGE_NAMES, kind_of
from bebert_ray.config.schema import FULL_WIDTH


def kind(*overrides):
    return kind_of(load_config(None, ["task=mrpc", *overrides]))


def test_there_is_one_for_each_width_that_may_be_asked_for():
    field = Config.__dataclass_fields__["bits"]
    assert set(KINDS) == {bits for bits in KINDS if str(bits) in str(field.type)}
    for bits in KINDS:
        names = [stage.name for stage in kind(f"bits={bits}").stages]
        assert set(names) <= set(STAGE_NAMES)
        assert names[0] == "teacher"


@pytest.mark.parametrize("bits", ["1-1-8", "1-1-4"])
def test_split_members(bits):
    found = kind(f"bits={bits}")
    assert [stage.name for stage in found.stages] == ["teacher", "half", "ternary", "split"]
    assert (found.start, found.teacher, found.match) == ("split", "half", "scores")


def test_fully_binary_members():
    found = kind("bits=1-1-1")
    assert [stage.name for stage in found.stages] == ["teacher", "binary-1-1-1"]
    assert (found.start, found.teacher, found.match) == ("binary-1-1-1", "teacher", "directions")


def test_members_by_way_of_wider_activations():
    found = kind("bits=1-1-1", "binary.through=[1-1-4,1-1-2]")
    chain = ["teacher", "binary-1-1-4", "binary-1-1-2", "binary-1-1-1"]
    assert [stage.name for stage in found.stages] == chain
    assert [stage.parents for stage in found.stages] == [(), *((name,) for name in chain[:-1])]
    assert [stage.bits for stage in found.stages] == [None, "1-1-4", "1-1-2", "1-1-1"]
    assert found.teacher == "binary-1-1-2"
    direct = kind("bits=1-1-2").stages[1]
    assert found.stages[2].inputs == direct.inputs, "but for its parent, it is the same model"


def test_choices_among_one_bit_activations_mean_nothing_to_wider_ones():
    plain, other = (
        kind("bits=1-1-1", "binary.through=[1-1-2]", f"binary.activations={activations}").stages
        for activations in ("sign", "elastic")
    )
    assert plain[1].inputs == other[1].inputs
    assert plain[2].inputs != other[2].inputs


def test_the_width_follows_the_bits():
    for bits in KINDS:
        config = load_config(None, ["task=mrpc", f"bits={bits}"])
        assert config.width == (1.0 if bits in FULL_WIDTH else 0.5)
    assert load_config(None, ["task=mrpc", "width=0.25"]).width == 0.25


def test_status_need_not_load_torch():
    code = "import bebert_ray.config.recipes, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
