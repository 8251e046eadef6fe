"""What each step depends on: exactly that."""

from pathlib import Path

import numpy as np
import pytest

from bebert_ray.config import load_config
from bebert_ray.config.recipes import kind_of
from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS
from bebert_ray.nn.checkpoint import Checkpoint
from bebert_ray.pipeline.layout import member_name
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.steps import member_step, model_step, stage_step
from bebert_ray.storage import Artifact, Location, fingerprint

STAGES = ["teacher", "half", "ternary", "split"]
RUN = Location.of(Path("/run"))
EMPTY = Split(([],), np.zeros(0, np.int64))
TWO_PHASES = ("ternary.joint=false", "member.joint=false", "ensemble.strategy=A")
UNIFORM = np.full((1, 4), 0.25)


def inputs(*overrides, data=None, digest="model", uses=UNIFORM, parents=None, copies=None):
    """Fingerprint of the inputs of every step."""
    config = load_config(None, ["task=sst2", *TWO_PHASES, *overrides])
    corpus = Corpus(TASKS["sst2"], EMPTY, {"dev": EMPTY})
    checkpoint = Checkpoint(Path("model"), digest)
    prepared = Prepared(
        config, RUN, corpus, checkpoint, data or {"corpus": "x"}, augmentation=copies
    )
    made = {
        name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name))) for name in STAGES
    } | (parents or {})
    steps = [stage_step(prepared, stage, made) for stage in kind_of(config).stages]
    steps.append(member_step(prepared, 0, uses, made))
    return {step.stage: fingerprint(step.inputs) for step in steps}


def changed(**changes):
    before, after = inputs(), inputs(*changes.pop("overrides", ()), **changes)
    return {stage for stage in before if before[stage] != after[stage]}


def test_copies_are_an_input_of_what_is_distilled_with_them():
    distilled = {"half", "ternary"}
    assert changed(copies={"copies": 1}) == distilled, "strategy A has labels alone"
    assert changed(overrides=["ensemble.strategy=B"]) == {"member"}

    def with_copies(*overrides):
        return inputs("ensemble.strategy=B", *overrides, copies={"copies": 8})

    plain, share = with_copies(), with_copies("data.augment.share=0.9")
    assert {name for name in plain if plain[name] != share[name]} == {*distilled, "member"}
    own = with_copies("data.augment.copies=8", "data.augment.per_member=true")
    assert {name for name in plain if plain[name] != own[name]} == {"member"}


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
        ("resources.max_restarts=0", set()),
        ("training.eval_batch_size=1", set()),
        ("training.checkpoint_every=1", set()),
        ("training.compile=on", set()),
        ("training.gradient_checkpointing=true", set()),
        ("training.accumulate=1", set()),  # the default: steps of earlier versions are found
        ("training.accumulate=2", {*STAGES, "member"}),
        ("training.max_steps=9", {*STAGES, "member"}),
        ("training.eval_every=9", {*STAGES, "member"}),
        ("training.patience=9", {*STAGES, "member"}),
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
    assert changed(uses=np.array([[0.25, 0.25, 0.2, 0.3]])) == {"member"}


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


@pytest.fixture
def prepared():
    corpus = Corpus(TASKS["sst2"], EMPTY, {"dev": EMPTY})

    def prepared(*overrides):
        config = load_config(None, ["task=sst2", *overrides])
        return Prepared(config, RUN, corpus, Checkpoint(Path("model"), "x"), {})

    return prepared


MADE = {name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name))) for name in STAGES}


def test_names_and_places(prepared):
    assert (member_name(7), member_name(7, 2)) == ("member 007", "member 007 fold 2")
    half = stage_step(prepared(), kind_of(prepared().config).stage("half"), MADE)
    assert (half.name, half.job, half.stage) == ("half", "half", "half")
    assert str(half.path) == "/run/half"
    assert str(half.checkpoints) == "/run/checkpoints/half"
    member = member_step(prepared(), 7, UNIFORM, MADE)
    assert (member.name, member.job, member.stage) == ("member 007", "member 007", "member")
    assert str(member.path) == "/run/members/007"
    assert str(member.checkpoints) == "/run/checkpoints/007"
    fold = member_step(prepared(), 7, UNIFORM, MADE, fold=2)
    assert (fold.name, fold.job, fold.member) == (*["member 007 fold 2"] * 2, 7)
    assert str(fold.path) == "/run/members/007-fold-2"
    assert str(fold.checkpoints) == "/run/checkpoints/007-fold-2"
    for step in (half, member, fold):
        assert (step.round, step.round_shown, step.earlier) == (0, None, ())


WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(4), size=3)
ROUNDS = ("ensemble.schedule=pipelined", "ensemble.rounds=3", "member.epochs=3")


def test_the_rounds_of_a_member(prepared):
    steps = [member_step(prepared(*ROUNDS), 7, WEIGHTS[:count], MADE) for count in (1, 2, 3)]
    assert [step.name for step in steps] == [
        *("member 007 round 0", "member 007 round 1", "member 007")
    ]
    assert [step.path.name for step in steps] == ["007-round-0", "007-round-1", "007"]
    assert [step.stage for step in steps] == ["round", "round", "member"]
    assert [step.round_shown for step in steps] == [0, 1, 2]
    assert {step.job for step in steps} == {"member 007"}
    assert {str(step.checkpoints) for step in steps} == {"/run/checkpoints/007"}
    # The checkpoints of a round serve those after it, and no others.
    inputs = [step.inputs for step in steps]
    assert [list(step.earlier) for step in steps] == [[], inputs[:1], inputs[:2]]
    assert len({fingerprint(each) for each in inputs}) == 3


def test_a_round_depends_on_the_weights_of_all_rounds_so_far_and_their_number(prepared):
    def last(weights, rounds=ROUNDS):
        return fingerprint(member_step(prepared(*rounds), 7, weights, MADE).inputs)

    other = WEIGHTS.copy()
    other[0] = other[0][::-1]
    assert last(WEIGHTS[:2]) == last(WEIGHTS[:2].copy())
    assert last(other[:2]) != last(WEIGHTS[:2])
    assert last(other) != last(WEIGHTS)
    # Epochs that are divided otherwise end elsewhere.
    more = (ROUNDS[0], "ensemble.rounds=2", "member.epochs=6")
    fewer = (ROUNDS[0], "ensemble.rounds=3", "member.epochs=6")
    assert last(WEIGHTS[:1], more) != last(WEIGHTS[:1], fewer)


def test_members_without_weight_are_packed_with_equal_ones(prepared):
    members = [MADE["half"], MADE["ternary"]]
    alphas = [model_step(prepared(), members, each).inputs["alphas"] for each in ([0, 0], [0, 2])]
    assert alphas == [[1.0, 1.0], [0, 2]]


def test_what_a_step_makes_and_what_its_record_says(prepared):
    steps = [
        stage_step(prepared(), kind_of(prepared().config).stage("half"), MADE),
        member_step(prepared(*ROUNDS), 7, WEIGHTS[:1], MADE),
        member_step(prepared(), 7, UNIFORM, MADE),
        member_step(prepared(), 7, UNIFORM, MADE, fold=2),
        model_step(prepared(), [MADE["half"]], [1.0]),
    ]
    assert [step.kind for step in steps] == ["stage", "round", "member", "fold", "model"]
    assert [step.stage for step in steps] == ["half", "round", "member", "member", "model"]
    model = steps[-1]
    assert (str(model.path), str(model.checkpoints)) == ("/run/model", "/run/checkpoints/model")
