"""Names in a run directory: each is read back as what it was made from."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.pipeline.layout import (
    LEFT,
    RIVAL_NAMES,
    STAGE_NAMES,
    Layout,
    Part,
    is_member,
    member_directory,
    member_name,
    parse_directory,
    parse_name,
    weights_file,
)
from bebert_ray.storage import Location

NUMBER = st.integers(0, 20_000)
PARTS = st.builds(Part, NUMBER, st.none() | NUMBER, st.none() | NUMBER)
RUN = Layout(Location.of(Path("/run")))


@given(PARTS)
def test_names_are_read_back(part):
    assert parse_name(member_name(*part)) == part
    assert parse_directory(member_directory(*part)) == part
    assert parse_directory(weights_file(*part)) == part


@given(st.text(alphabet="0123456789- membrfoldun.y", max_size=20))
def test_no_two_names_are_read_as_one(text):
    part = parse_name(text)
    assert part is None or member_name(*part) == text
    part = parse_directory(text)
    assert part is None or member_directory(*part) == text.removesuffix(".npy")


@pytest.mark.parametrize("text", ["member", "member 1", "member 0001", "000", "member 000 fold"])
def test_other_names_are_of_no_member(text):
    assert not is_member(text)
    assert not any(map(is_member, STAGE_NAMES))


def test_where_things_are():
    assert str(RUN.member(7, fold=1, round=0)) == "/run/members/007-fold-1-round-0"
    assert str(RUN.weights_of(7, round=2)) == "/run/weights/007-round-2.npy"
    assert str(RUN.artifact("member 007 fold 1")) == "/run/members/007-fold-1"
    assert RUN.artifact("half") == RUN.stage("half")
    assert RUN.artifact("model") == RUN.model


def test_all_that_a_run_leaves_is_known_as_such():
    places = [
        *(
            RUN.data,
            RUN.augmented,
            RUN.encoder,
            RUN.members,
            RUN.weights,
            RUN.checkpoints,
            RUN.model,
            RUN.metrics,
            RUN.logs,
        ),
        *(RUN.robustness, RUN.robustness_curves),
        *(RUN.results, RUN.scores, RUN.report, *map(RUN.stage, (*STAGE_NAMES, *RIVAL_NAMES))),
    ]
    assert {place.name for place in places} | {"tensorboard"} == LEFT
    assert not LEFT & {RUN.config.name, RUN.lock.name}


def test_names_are_had_without_torch_and_ray():
    code = "import sys, bebert_ray.pipeline.layout; print({'torch', 'ray'} & set(sys.modules))"
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout.strip() == "set()"
