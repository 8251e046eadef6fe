"""Kinds of members: the stages that each shares."""

import subprocess
import sys

import pytest

from bebert_ray.config import Config, load_config
from bebert_ray.config.bits import FULL_WIDTH
from bebert_ray.config.recipes import KINDS, RIVAL_NAMES, STAGE_NAMES, Trunk, is_rival, kind_of


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
    assert (found.trunks, found.match) == ((Trunk("split", "half"),), "scores")


def test_fully_binary_members():
    found = kind("bits=1-1-1")
    assert [stage.name for stage in found.stages] == ["teacher", "binary-1-1-1"]
    assert (found.trunks, found.match) == ((Trunk("binary-1-1-1", "teacher"),), "directions")


def test_members_by_way_of_wider_activations():
    found = kind("bits=1-1-1", "binary.through=[1-1-4,1-1-2]")
    chain = ["teacher", "binary-1-1-4", "binary-1-1-2", "binary-1-1-1"]
    assert [stage.name for stage in found.stages] == chain
    assert [stage.parents for stage in found.stages] == [(), *((name,) for name in chain[:-1])]
    assert [stage.bits for stage in found.stages] == [None, "1-1-4", "1-1-2", "1-1-1"]
    assert found.trunks == (Trunk("binary-1-1-1", "binary-1-1-2"),)
    direct = kind("bits=1-1-2").stages[1]
    assert found.stages[2].inputs == direct.inputs, "but for its parent, it is the same model"


def test_choices_among_one_bit_activations_mean_nothing_to_wider_ones():
    plain, other = (
        kind("bits=1-1-1", "binary.through=[1-1-2]", f"binary.activations={activations}").stages
        for activations in ("sign", "elastic")
    )
    assert plain[1].inputs == other[1].inputs
    assert plain[2].inputs != other[2].inputs


def test_members_are_dealt_out_to_trunks_of_one_teacher():
    found = kind("bits=1-1-4", "ensemble.trunks=2", "ensemble.members=3")
    chain = ["half", "ternary", "split"]
    assert [s.name for s in found.stages] == ["teacher", *chain, *(f"{n}-trunk1" for n in chain)]
    assert [s.trunk for s in found.stages] == [0, 0, 0, 0, 1, 1, 1]
    assert found.stage("half-trunk1").parents == ("teacher",)
    assert found.stage("split-trunk1").parents == ("ternary-trunk1",)
    starts = [found.trunk_of(member).start for member in range(3)]
    assert starts == ["split", "split-trunk1", "split"]
    assert found.trunk_of(1).teacher == "half-trunk1"


@pytest.mark.parametrize("bits", KINDS)
def test_every_name_is_one_that_the_layout_knows(bits):
    wide = [] if bits in FULL_WIDTH else ["wider"]
    baselines = f"ensemble.baselines=[{','.join(['longer', *wide])}]"
    found = kind(
        f"bits={bits}", "ensemble.trunks=16", "ensemble.members=16", "ensemble.distill=true",
        baselines,
    )  # fmt: skip
    names = [stage.name for stage in (*found.stages, *found.rivals)]
    assert len(names) == len(set(names))
    assert set(names) <= {*STAGE_NAMES, *RIVAL_NAMES}
    assert not any(is_rival(stage.name) for stage in found.stages)
    assert all(is_rival(stage.name) for stage in found.rivals), "no member waits for them"
    for position, stage in enumerate((*found.stages, *found.rivals)):
        assert set(stage.parents) <= set(names[:position]), "each comes after its parents"


def test_baselines_cost_what_the_members_cost():
    found = kind("bits=1-1-4", "ensemble.members=2", "ensemble.baselines=[longer,wider]")
    assert [stage.name for stage in found.rivals] == [
        *("longer", "half-wide", "ternary-wide", "split-wide", "wider")
    ]
    longer, wider = found.stage("longer"), found.stage("wider")
    assert (longer.inputs["times"], longer.width) == (2, 0.5)
    assert (wider.inputs["times"], wider.width) == (1, 1.0)
    assert found.stage("half-wide").inputs["width"] == 1.0
    assert kind("bits=1-1-4", "width=0.25", "ensemble.baselines=[wider]").rivals[0].width == 1.0


def test_hidden_passes_mean_nothing_to_a_joint_phase():
    plain, other = (
        kind("bits=1-1-4", "ternary.joint=true", f"ternary.hidden_epochs={epochs}")
        for epochs in (1, 2)
    )
    assert plain.stage("ternary").inputs == other.stage("ternary").inputs
    two = kind("bits=1-1-4", "ternary.joint=false").stage("ternary").inputs["ternary"]
    assert "joint" not in two, "what was made before that key was there is still valid"


def test_the_width_follows_the_bits():
    for bits in KINDS:
        config = load_config(None, ["task=mrpc", f"bits={bits}"])
        assert config.width == (1.0 if bits in FULL_WIDTH else 0.5)
    assert load_config(None, ["task=mrpc", "width=0.25"]).width == 0.25


def test_status_need_not_load_torch():
    code = "import bebert_ray.config.recipes, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
