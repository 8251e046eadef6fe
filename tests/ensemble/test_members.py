"""An ensemble follows from the artifacts of its members: with hand-made predictions here."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bebert_ray.config import load_config
from bebert_ray.data.columns import Columns
from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS
from bebert_ray.ensemble.members import Ensemble, member_steps, save_weights
from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.models.bert import Checkpoint
from bebert_ray.storage import Artifact, Location
from bebert_ray.training.stages import STAGES

N, HELD_OUT = 8, 4


def columns(n):
    """n examples of class 0, without tokens."""
    none = np.zeros(0, np.int32)
    return Columns(none, none.astype(np.int8), np.zeros(n + 1, np.int64), np.zeros(n, np.int64))


@pytest.fixture
def make(tmp_path):
    """An ensemble with some settings; plain AdaBoost unless they say otherwise."""

    def make(*overrides):
        plain = ["ensemble.learning_rate=1", "ensemble.floor=0", "ensemble.errors=train"]
        config = load_config(None, ["task=sst2", *plain, *overrides])
        split = Split(([],), np.zeros(0, np.int64))
        prepared = Prepared(
            config,
            tmp_path,
            Corpus(TASKS["sst2"], split, {"dev": split}),
            Checkpoint(Path("model"), "x"),
            {},
        )
        parents = {
            name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name)))
            for name in STAGES
        }
        return Ensemble(prepared, {"train": columns(N), "selection": columns(HELD_OUT)}, parents)

    return make


def artifact(step, wrong=(), wrong_held_out=()):
    """What a step makes whose model is wrong on these examples."""

    def logits(n, wrong):
        result = np.tile(np.float32([1, 0]), (n, 1))
        result[list(wrong)] = [0, 1]
        return result

    step.path.mkdir(parents=True, exist_ok=True)
    arrays = {"train": logits(N, wrong), "selection": logits(HELD_OUT, wrong_held_out)}
    save_file(arrays, step.path / "logits.safetensors")
    return Artifact(step.path, step.stage, step.inputs, {}, step.name, Location.of(step.path))


def names(ensemble):
    return [step.name for step in ensemble.due()]


def test_boosting_goes_one_by_one_and_hands_weights_on(make):
    ensemble = make("ensemble.members=3")
    [step] = ensemble.due()
    assert (step.name, step.member) == ("member 000", 0)
    np.testing.assert_allclose(step.sample_weight, 1 / N)
    ensemble.advance([artifact(step, wrong=[3, 5])])
    [step] = ensemble.due()
    assert step.name == "member 001"
    expected = np.full(N, 1 / 12)
    expected[[3, 5]] = 1 / 4
    np.testing.assert_allclose(step.sample_weight, expected)
    ensemble.advance([artifact(step, wrong=[0])])
    ensemble.advance([artifact(*ensemble.due(), wrong=[1])])
    assert ensemble.finished
    assert ensemble.note == ""
    assert [member.name for member in ensemble.members] == [f"member 00{i}" for i in range(3)]
    assert ensemble.members[0].alpha == pytest.approx(np.log(3))
    assert ensemble.members[1].error == pytest.approx(1 / 12)


def test_the_same_artifacts_lead_to_the_same_state(make):
    def walk(ensemble):
        ensemble.advance([artifact(*ensemble.due(), wrong=[3, 5])])
        return ensemble.due()[0]

    one, other = walk(make("ensemble.members=2")), walk(make("ensemble.members=5"))
    np.testing.assert_array_equal(one.sample_weight, other.sample_weight)
    assert one.inputs == other.inputs, "a larger ensemble goes on with the members of a smaller"


def test_a_perfect_member_is_the_last(make):
    ensemble = make("ensemble.members=3")
    ensemble.advance([artifact(*ensemble.due(), wrong=[0])])
    ensemble.advance([artifact(*ensemble.due())])
    assert ensemble.finished
    assert ensemble.note == "member 001 makes no errors to learn from: boosting ends with it"
    assert [member.alpha for member in ensemble.members] == [pytest.approx(np.log(7)), 1.0]


def test_a_perfect_last_member_needs_no_note(make):
    ensemble = make("ensemble.members=1")
    ensemble.advance([artifact(*ensemble.due())])
    assert ensemble.finished
    assert (ensemble.note, len(ensemble.members)) == ("", 1)


def test_a_member_worse_than_chance_is_left_out(make):
    ensemble = make("ensemble.members=3")
    ensemble.advance([artifact(*ensemble.due(), wrong=[0])])
    ensemble.advance([artifact(*ensemble.due(), wrong=range(1, N))])
    assert ensemble.finished
    assert len(ensemble.members) == 1
    assert ensemble.note == (
        "member 001 is no better than chance (weighted error 0.500): boosting ends before it"
    )


def test_an_only_member_worse_than_chance_is_kept(make):
    ensemble = make("ensemble.members=3")
    ensemble.advance([artifact(*ensemble.due(), wrong=range(5))])
    assert ensemble.finished
    assert [member.alpha for member in ensemble.members] == [1.0]
    assert ensemble.note.endswith("(weighted error 0.625): boosting ends with it")


def test_held_out_errors_give_the_alphas(make):
    ensemble = make("ensemble.members=2", "ensemble.errors=holdout")
    ensemble.advance([artifact(*ensemble.due(), wrong=[], wrong_held_out=[2])])
    assert ensemble.members[0].error == 0.25
    np.testing.assert_allclose(ensemble.due()[0].sample_weight, 1 / N)


def test_parallel_bagging_is_due_at_once_and_sequential_bagging_one_by_one(make):
    parallel = make("ensemble.members=3", "ensemble.method=bagging")
    steps = parallel.due()
    assert [step.name for step in steps] == [f"member 00{i}" for i in range(3)]
    assert len({step.inputs["sample_weight"] for step in steps}) == 3
    parallel.advance([artifact(step) for step in steps])
    assert parallel.finished

    sequential = make(
        "ensemble.members=3", "ensemble.method=bagging", "ensemble.schedule=sequential"
    )
    for step in steps:
        assert not sequential.finished
        [due] = sequential.due()
        assert (due.name, due.inputs) == (step.name, step.inputs)
        sequential.advance([artifact(due, wrong=range(N))])
    assert sequential.finished
    assert [member.alpha for member in sequential.members] == [1.0] * 3
    assert [member.error for member in sequential.members] == [None] * 3


def test_bagging_ignores_where_boosting_takes_errors_from(make):
    ensemble = make("ensemble.method=bagging", "ensemble.errors=out_of_fold", "ensemble.members=2")
    assert names(ensemble) == ["member 000", "member 001"]


def test_folds_leave_each_example_out_once(make):
    ensemble = make("ensemble.errors=out_of_fold", "ensemble.folds=3")
    member, *folds = ensemble.due()
    assert [step.name for step in folds] == [f"member 000 fold {k}" for k in range(3)]
    np.testing.assert_allclose(member.sample_weight, 1 / N)
    left_out = np.array([step.sample_weight == 0 for step in folds])
    assert (left_out.sum(axis=0) == 1).all()
    for step in folds:
        assert step.sample_weight.sum() == pytest.approx(1)
        assert len(set(step.sample_weight[step.sample_weight > 0])) == 1


def test_out_of_fold_errors_are_those_of_the_left_out(make):
    ensemble = make("ensemble.errors=out_of_fold", "ensemble.folds=2", "ensemble.members=2")
    member, one, other = ensemble.due()
    out = np.flatnonzero(one.sample_weight == 0)
    # The member itself is all wrong, each fold on all but what it left out, and one of these.
    ensemble.advance(
        [
            artifact(member, wrong=range(N)),
            artifact(one, wrong=sorted({*range(N)} - {*out[1:].tolist()})),
            artifact(other, wrong=out.tolist()),
        ]
    )
    assert ensemble.members[0].error == 1 / N
    assert int(ensemble.due()[0].sample_weight.argmax()) == out[0]
    again = [step.sample_weight == 0 for step in ensemble.due()[1:]]
    np.testing.assert_array_equal(again[0], one.sample_weight == 0)


def test_the_names_of_all_steps():
    config = load_config(None, ["task=sst2", "ensemble.members=2"]).ensemble
    assert member_steps(config) == ["member 000", "member 001"]
    folds = ["task=sst2", "ensemble.members=1", "ensemble.errors=out_of_fold"]
    assert member_steps(load_config(None, folds).ensemble) == [
        "member 000",
        *(f"member 000 fold {k}" for k in range(3)),
    ]


def test_weights_are_kept_for_people(tmp_path):
    save_weights(np.array([0.5, 0.5]), tmp_path, "000")
    assert np.load(tmp_path / "weights" / "000.npy").tolist() == [0.5, 0.5]
