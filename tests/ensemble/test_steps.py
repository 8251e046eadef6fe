"""What each step depends on: exactly that."""

from pathlib import Path

import numpy as np
import pytest

from bebert_ray.config import load_config
from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS
from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.ensemble.steps import member_name, member_step, stage_step
from bebert_ray.models.bert import Checkpoint
from bebert_ray.storage import Artifact, Location, fingerprint
from bebert_ray.training.stages import STAGES

EMPTY = Split(([],), np.zeros(0, np.int64))
UNIFORM = np.full(4, 0.25)


def inputs(*overrides, data=None, digest="model", uses=UNIFORM, parents=None):
    """Fingerprint of the inputs of every step."""
    config = load_config(None, ["task=sst2", *overrides])
    corpus = Corpus(TASKS["sst2"], EMPTY, {"dev": EMPTY})
    checkpoint = Checkpoint(Path("model"), digest)
    prepared = Prepared(config, Path("/run"), corpus, checkpoint, data or {"corpus": "x"})
    made = {
        name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name))) for name in STAGES
    } | (parents or {})
    steps = [stage_step(prepared, stage, made) for stage in STAGES]
    steps.append(member_step(prepared, 0, uses, made))
    return {step.stage: fingerprint(step.inputs) for step in steps}


def changed(**changes):
    before, after = inputs(), inputs(*changes.pop("overrides", ()), **changes)
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("seed=1", {*STAGES, "member"}),
        ("training.precision=fp32", {*STAGES, "member"}),
        ("teacher.epochs=9", {"teacher"}),
        ("half.learning_rate=0.01", {"half"}),
        ("width=0.25", {"half"}),
        ("bits=1-1-4", {"ternary"}),
        ("ternary.hidden_epochs=9", {"ternary"}),
        ("member.epochs=9", {"member"}),
        ("ensemble.strategy=B", {"member"}),
        ("ensemble.sample_weight=loss", {"member"}),
        ("member.hidden_epochs=9", set()),
        ("ensemble.members=9", set()),
        ("ensemble.method=bagging", set()),  # it shows in the weights
        ("ensemble.floor=0.5", set()),
        ("resources.member.cpu=1", set()),
        ("training.eval_batch_size=1", set()),
        ("output=elsewhere", set()),
        ("fresh=true", set()),
    ],
)
def test_a_step_depends_on_its_own_settings(override, stages):
    """The stages after it notice by the digest of what they are made from."""
    assert changed(overrides=[override]) == stages


def test_hidden_passes_are_settings_of_strategy_c():
    one = inputs("ensemble.strategy=C")
    other = inputs("ensemble.strategy=C", "member.hidden_epochs=9")
    assert one["member"] != other["member"]


def test_every_step_depends_on_the_data_and_the_teacher_on_the_checkpoint():
    assert changed(data={"corpus": "y"}) == {*STAGES, "member"}
    assert changed(digest="another") == {"teacher"}


def test_a_member_depends_on_its_weights():
    assert changed(uses=np.array([0.25, 0.25, 0.2, 0.3])) == {"member"}


@pytest.mark.parametrize(
    ("parent", "stages"),
    [
        ("teacher", {"half"}),
        ("half", {"ternary", "member"}),
        ("ternary", {"split"}),
        ("split", {"member"}),
    ],
)
def test_a_step_depends_on_what_it_is_made_from(parent, stages):
    other = Artifact(Path(parent), parent, {}, {}, "other content", Location.of(Path(parent)))
    assert changed(parents={parent: other}) == stages


def test_names_and_places():
    assert (member_name(7), member_name(7, 2)) == ("member 007", "member 007 fold 2")
    config = load_config(None, ["task=sst2"])
    corpus = Corpus(TASKS["sst2"], EMPTY, {"dev": EMPTY})
    prepared = Prepared(config, Path("/run"), corpus, Checkpoint(Path("model"), "x"), {})
    made = {
        name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name))) for name in STAGES
    }
    assert stage_step(prepared, "half", made).path == Path("/run/half")
    assert member_step(prepared, 7, UNIFORM, made).path == Path("/run/members/007")
    fold = member_step(prepared, 7, UNIFORM, made, fold=2)
    assert (fold.path, fold.member) == (Path("/run/members/007-fold-2"), 7)
