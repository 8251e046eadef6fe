"""An ensemble follows from the predictions of its members: hand-made ones here."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bebert_ray.boosting.rounds import Predictions, Weights, boost_round
from bebert_ray.config import load_config
from bebert_ray.config.recipes import STAGE_NAMES
from bebert_ray.data.columns import Columns
from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS
from bebert_ray.nn.checkpoint import Checkpoint
from bebert_ray.pipeline.members import Ensemble, keep_weights, member_steps
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.storage import Artifact, Location

N, HELD_OUT = 8, 4


def columns(labels, dtype=np.int64):
    """Examples with these labels, without tokens."""
    none = np.zeros(0, np.int32)
    offsets = np.zeros(len(labels) + 1, np.int64)
    return Columns(none, none.astype(np.int8), offsets, np.asarray(labels, dtype))


ALL_ZERO = {"train": columns(np.zeros(N)), "selection": columns(np.zeros(HELD_OUT))}


def make(*overrides, splits=ALL_ZERO, task="sst2", report=None, directory=Path("/run")):
    """An ensemble with some settings; plain AdaBoost unless they say otherwise."""
    plain = ["ensemble.learning_rate=1", "ensemble.floor=0", "ensemble.errors=train"]
    config = load_config(None, [f"task={task}", *plain, *overrides])
    split = Split(([],), np.zeros(0, np.int64))
    corpus = Corpus(TASKS[task], split, {"dev": split})
    checkpoint = Checkpoint(Path("model"), "x")
    prepared = Prepared(config, Location.of(directory), corpus, checkpoint, {})
    parents = {
        name: Artifact(Path(name), name, {}, {}, name, Location.of(Path(name)))
        for name in STAGE_NAMES
    }
    return Ensemble(prepared, splits, parents, *([report] if report else []))


def artifact(step):
    path = Path(step.path.path)
    return Artifact(path, step.stage, step.inputs, {}, step.name, step.path)


def made(step, wrong=(), wrong_held_out=()):
    """What a step makes whose model is wrong on these examples."""

    def logits(n, wrong):
        result = np.tile(np.float32([1, 0]), (n, 1))
        result[list(wrong)] = [0, 1]
        return result

    arrays = {"train": logits(N, wrong), "selection": logits(HELD_OUT, wrong_held_out)}
    return step, artifact(step), arrays


def names(steps):
    return [step.name for step in steps]


# --- one member after another -------------------------------------------------------------------


def test_boosting_goes_one_by_one_and_hands_weights_on():
    ensemble = make("ensemble.members=3")
    [step] = ensemble.start()
    assert (step.name, step.member, step.round, step.round_shown) == ("member 000", 0, 0, None)
    np.testing.assert_allclose(step.sample_weight, [[1 / N] * N])
    [step] = ensemble.advance(*made(step, wrong=[3, 5]))
    assert step.name == "member 001"
    expected = np.full((1, N), 1 / 12)
    expected[0, [3, 5]] = 1 / 4
    np.testing.assert_allclose(step.sample_weight, expected)
    [step] = ensemble.advance(*made(step, wrong=[0]))
    assert not ensemble.finished
    assert ensemble.advance(*made(step, wrong=[1])) == []
    assert ensemble.finished
    assert ensemble.note == ""
    assert names(ensemble.members) == [f"member 00{i}" for i in range(3)]
    assert ensemble.members[0].alpha == pytest.approx(np.log(3))
    assert ensemble.members[1].error == pytest.approx(1 / 12)


def test_the_same_predictions_lead_to_the_same_steps():
    def walk(ensemble):
        [step] = ensemble.advance(*made(*ensemble.start(), wrong=[3, 5]))
        return step

    one, other = walk(make("ensemble.members=2")), walk(make("ensemble.members=5"))
    np.testing.assert_array_equal(one.sample_weight, other.sample_weight)
    assert one.inputs == other.inputs, "a larger ensemble goes on with the members of a smaller"


def test_a_perfect_member_is_the_last():
    ensemble = make("ensemble.members=3")
    [step] = ensemble.advance(*made(*ensemble.start(), wrong=[0]))
    assert ensemble.advance(*made(step)) == []
    assert ensemble.finished
    assert ensemble.note == "member 001 makes no errors to learn from: boosting ends with it"
    assert [member.alpha for member in ensemble.members] == [pytest.approx(np.log(7)), 1.0]


def test_a_perfect_last_member_needs_no_note():
    ensemble = make("ensemble.members=1")
    ensemble.advance(*made(*ensemble.start()))
    assert ensemble.finished
    assert (ensemble.note, len(ensemble.members)) == ("", 1)


def test_a_member_worse_than_chance_ends_sequential_boosting():
    ensemble = make("ensemble.members=3")
    [step] = ensemble.advance(*made(*ensemble.start(), wrong=[0]))
    assert ensemble.advance(*made(step, wrong=range(1, N))) == []
    assert ensemble.finished
    assert names(ensemble.members) == ["member 000"]
    assert ensemble.note == (
        "member 001 is no better than chance (weighted error 0.500): boosting ends before it"
    )


def test_a_first_member_worse_than_chance_is_kept():
    ensemble = make("ensemble.members=3")
    ensemble.advance(*made(*ensemble.start(), wrong=range(5)))
    assert ensemble.finished
    assert [member.alpha for member in ensemble.members] == [0.0]
    assert ensemble.note.endswith("(weighted error 0.625): boosting ends with it")


def test_held_out_errors_give_the_alphas():
    ensemble = make("ensemble.members=2", "ensemble.errors=holdout")
    [step] = ensemble.advance(*made(*ensemble.start(), wrong=[], wrong_held_out=[2]))
    assert ensemble.members[0].error == 0.25
    np.testing.assert_allclose(step.sample_weight, [[1 / N] * N])


def test_parallel_bagging_starts_at_once_and_sequential_bagging_one_by_one():
    parallel = make("ensemble.members=3", "ensemble.method=bagging")
    steps = parallel.start()
    assert names(steps) == [f"member 00{i}" for i in range(3)]
    assert len({step.inputs["sample_weight"] for step in steps}) == 3
    for step in reversed(steps):
        assert not parallel.finished
        assert parallel.advance(*made(step)) == []
    assert parallel.finished
    assert names(parallel.members) == names(steps)

    sequential = make(
        "ensemble.members=3", "ensemble.method=bagging", "ensemble.schedule=sequential"
    )
    due = sequential.start()
    for step in steps:
        assert not sequential.finished
        [now] = due
        assert (now.name, now.inputs) == (step.name, step.inputs)
        due = sequential.advance(*made(now, wrong=range(N)))
    assert sequential.finished
    assert due == []
    assert [member.alpha for member in sequential.members] == [1.0] * 3
    assert [member.error for member in sequential.members] == [None] * 3


def test_uniform_members_see_all_examples_and_count_the_same():
    ensemble = make("ensemble.members=3", "ensemble.method=uniform")
    steps = ensemble.start()
    assert names(steps) == [f"member 00{i}" for i in range(3)]
    for step in steps:
        np.testing.assert_allclose(step.sample_weight, [[1 / N] * N])
    for step in steps:
        assert ensemble.advance(*made(step, wrong=range(step.member, N))) == []
    assert ensemble.finished
    assert [member.alpha for member in ensemble.members] == [1.0] * 3


def test_bagging_ignores_where_boosting_takes_errors_from():
    ensemble = make("ensemble.method=bagging", "ensemble.errors=out_of_fold", "ensemble.members=2")
    assert names(ensemble.start()) == ["member 000", "member 001"]


def test_folds_leave_each_example_out_once():
    ensemble = make("ensemble.errors=out_of_fold", "ensemble.folds=3")
    member, *folds = ensemble.start()
    assert names(folds) == [f"member 000 fold {k}" for k in range(3)]
    np.testing.assert_allclose(member.sample_weight, [[1 / N] * N])
    left_out = np.concatenate([step.sample_weight == 0 for step in folds])
    assert (left_out.sum(axis=0) == 1).all()
    for step in folds:
        assert step.sample_weight.sum() == pytest.approx(1)
        assert len(set(step.sample_weight[step.sample_weight > 0])) == 1


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_out_of_fold_errors_are_those_of_the_left_out(order):
    ensemble = make("ensemble.errors=out_of_fold", "ensemble.folds=2", "ensemble.members=2")
    member, one, other = ensemble.start()
    out = np.flatnonzero(one.sample_weight[0] == 0)
    # The member itself is all wrong, each fold on all but what it left out, and one of these.
    results = [
        made(member, wrong=range(N)),
        made(one, wrong=sorted({*range(N)} - {*out[1:].tolist()})),
        made(other, wrong=out.tolist()),
    ]
    *early, due = [ensemble.advance(*results[k]) for k in order]
    assert early == [[], []]
    assert names(due) == ["member 001", "member 001 fold 0", "member 001 fold 1"]
    assert ensemble.members[0].error == 1 / N
    assert int(due[0].sample_weight.argmax()) == out[0]
    np.testing.assert_array_equal(due[1].sample_weight == 0, one.sample_weight == 0)


def test_errors_and_alphas_are_reported_of_what_is_new():
    heard = []
    ensemble = make("ensemble.members=2", report=heard.append)
    [step] = ensemble.advance(*made(*ensemble.start(), wrong=[3, 5]), new=False)
    assert heard == []
    ensemble.advance(*made(step, wrong=[0]))
    assert heard == [
        {
            "kind": "boost",
            "stage": "member 001",
            "round": None,
            "error": pytest.approx(1 / 12),
            "alpha": pytest.approx(np.log(11)),
        }
    ]


# --- all at once --------------------------------------------------------------------------------


PIPELINED = (
    "ensemble.schedule=pipelined",
    "ensemble.rounds=2",
    "ensemble.members=3",
    "member.epochs=2",
)


class World:
    """A pipelined ensemble whose members predict at random, the same whenever they are asked."""

    def __init__(self, seed, members, rounds, errors="train", task="sst2"):
        self.members, self.rounds = members, rounds
        self.rng = rng = np.random.default_rng(seed)
        regression = TASKS[task].is_regression
        sizes = {"train": 30, "selection": 20}
        self.labels = {
            name: rng.random(n).astype(np.float32) if regression else rng.integers(0, 2, n)
            for name, n in sizes.items()
        }
        # Some are worse than chance.
        self.predicted = {
            (round, member): {
                name: self._predict(rng.uniform(0.05, 0.6), labels, regression)
                for name, labels in self.labels.items()
            }
            for round in range(rounds)
            for member in range(members)
        }
        self.arguments = (
            f"ensemble.members={members}",
            f"ensemble.rounds={rounds}",
            f"member.epochs={rounds}",
            f"ensemble.errors={errors}",
            "ensemble.schedule=pipelined",
            "ensemble.floor=0.2",
        )
        self.task, self.heard = task, []

    def _predict(self, wrong, labels, regression):
        if regression:
            return (labels + self.rng.normal(0, wrong, len(labels))).astype(np.float32)[:, None]
        says = np.where(self.rng.random(len(labels)) < wrong, 1 - labels, labels)
        return np.eye(2, dtype=np.float32)[says]

    def make(self):
        dtype = np.float32 if self.task == "stsb" else np.int64
        splits = {name: columns(labels, dtype) for name, labels in self.labels.items()}
        self.heard.clear()
        return make(*self.arguments, splits=splits, task=self.task, report=self.heard.append)

    def run(self, choose):
        """Take the steps in an order; `choose` says which of those that are due is done next.

        Returns:
            The ensemble, and the steps by round and member.
        """
        ensemble = self.make()
        due, steps = ensemble.start(), {}
        while due:
            step = due.pop(choose(due))
            assert (step.round, step.member) not in steps, "no step comes twice"
            steps[step.round, step.member] = step
            due += ensemble.advance(step, artifact(step), self.predicted[step.round, step.member])
        return ensemble, steps

    def chain(self, round):
        """Weights [members + 1, n] of a boosting with a round's predictions, and its steps."""
        config = make(*self.arguments, task=self.task).prepared.config.ensemble
        weights = Weights.uniform(30, 20)
        rows, boosts = [weights.train], []
        for member in range(self.members):
            predicted = self.predicted[round, member]
            weights, boost = boost_round(
                config,
                TASKS[self.task].num_labels,
                weights,
                Predictions(
                    predicted["train"],
                    self.labels["train"],
                    predicted["selection"],
                    self.labels["selection"],
                ),
            )
            rows.append(weights.train)
            boosts.append(boost)
        return rows, boosts


worlds = st.builds(
    World,
    seed=st.integers(0, 2**32),
    members=st.integers(1, 5),
    rounds=st.integers(2, 4),
    errors=st.sampled_from(["train", "holdout"]),
    task=st.sampled_from(["sst2", "stsb"]),
)


@given(worlds, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_member_learns_from_those_before_it_as_they_were_a_round_ago(world, random):
    """Whatever the order in which steps are done."""
    ensemble, steps = world.run(lambda due: random.randrange(len(due)))
    uniform = np.full(30, 1 / 30)
    assert steps.keys() == world.predicted.keys()
    for (round, member), step in steps.items():
        expected = [uniform, *(world.chain(r)[0][member] for r in range(round))]
        np.testing.assert_array_equal(step.sample_weight, expected)
        last = round + 1 == world.rounds
        assert step.name == f"member {member:03d}" + ("" if last else f" round {round}")
        assert step.stage == ("member" if last else "round")
        assert step.round_shown == round
        before = [steps[r, member].inputs for r in range(round)]
        assert list(step.earlier) == before
        place = f"{member:03d}" if last else f"{member:03d}-round-{round}"
        assert (step.path.name, step.checkpoints.name) == (place, f"{member:03d}")
    assert all((steps[r, 0].sample_weight == uniform).all() for r in range(world.rounds))

    # The last round's predictions are judged in one pass, as by sequential boosting.
    _, boosts = world.chain(world.rounds - 1)
    assert ensemble.finished
    better = [i for i, boost in enumerate(boosts) if boost.status != "worse_than_chance"]
    kept = [(m.name, m.alpha, m.error) for m in ensemble.members]
    if better:
        assert kept == [(f"member {i:03d}", boosts[i].alpha, boosts[i].error) for i in better]
    else:
        assert kept == [("member 000", 0.0, boosts[0].error)]
    left_out = [name.split(" is ")[0] for name in ensemble.note.split("; ") if name]
    assert left_out == [f"member {i:03d}" for i in range(world.members) if i not in better]
    for member in ensemble.members:
        number = int(member.name.split()[1])
        assert member.logits is world.predicted[world.rounds - 1, number]
        assert member.artifact.digest == member.name


@given(worlds, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_no_order_changes_what_comes_of_it(world, random):
    def told(choose):
        ensemble, steps = world.run(choose)
        events = sorted(world.heard, key=lambda event: (event["round"], event["stage"]))
        return (
            {step.name: (step.inputs, step.sample_weight.tolist()) for step in steps.values()},
            [(member.name, member.alpha, member.error) for member in ensemble.members],
            (ensemble.note, events),
        )

    in_order = told(lambda due: 0)
    assert told(lambda due: len(due) - 1) == in_order
    assert told(lambda due: random.randrange(len(due))) == in_order
    # One report for each member and round.
    assert [(event["round"], event["stage"]) for event in in_order[2][1]] == [
        (round, f"member {member:03d}")
        for round in range(world.rounds)
        for member in range(world.members)
    ]


@pytest.mark.parametrize("foremost", range(4))
def test_nobody_waits_for_a_member_behind_it(foremost):
    world = World(1, members=4, rounds=3)
    ensemble = world.make()
    due, done = ensemble.start(), set()
    while mine := [step for step in due if step.member <= foremost]:
        step = mine[0]
        due.remove(step)
        done.add((step.round, step.member))
        due += ensemble.advance(step, artifact(step), world.predicted[step.round, step.member])
    assert done == {(round, member) for round in range(3) for member in range(foremost + 1)}


def test_a_member_waits_for_those_before_it():
    world = World(1, members=3, rounds=2)
    ensemble = world.make()
    zero, one, two = ensemble.start()

    def done(step):
        predicted = world.predicted[step.round, step.member]
        return names(ensemble.advance(step, artifact(step), predicted))

    assert done(two) == []
    assert done(one) == []
    assert done(zero) == ["member 000", "member 001", "member 002"]


def test_a_member_worse_than_chance_is_left_out_and_the_others_stay():
    ensemble = make(*PIPELINED)
    due = ensemble.start()
    while due:
        step = due.pop(0)
        wrong = range(1, N) if step.name == "member 001" else [step.member]
        due += ensemble.advance(*made(step, wrong=wrong))
    assert ensemble.finished
    assert names(ensemble.members) == ["member 000", "member 002"]
    error = 7 / 8 * 8 / 14  # after member 000 was wrong on example 0, it has half of the weight
    assert ensemble.note == (
        f"member 001 is no better than chance (weighted error {error:.3f}): it is left out"
    )
    # As if it had not been there.
    assert ensemble.members[1].error == pytest.approx(1 / 14)


def test_a_perfect_member_does_not_end_pipelined_boosting():
    ensemble = make(*PIPELINED)
    due = ensemble.start()
    while due:
        step = due.pop(0)
        due += ensemble.advance(*made(step, wrong=[] if step.member == 0 else [step.member]))
    assert names(ensemble.members) == ["member 000", "member 001", "member 002"]
    assert ensemble.note == ""


def test_of_members_that_are_all_worse_than_chance_the_first_is_kept():
    ensemble = make(*PIPELINED)
    due = ensemble.start()
    while due:
        due += ensemble.advance(*made(due.pop(0), wrong=range(N)))
    assert ensemble.finished
    assert [(member.name, member.alpha) for member in ensemble.members] == [("member 000", 0.0)]
    assert ensemble.note.count("it is left out") == 3


def test_reports_name_the_round():
    heard = []
    ensemble = make(*PIPELINED, report=heard.append)
    due = ensemble.start()
    while due:
        step = due.pop(0)
        due += ensemble.advance(*made(step, wrong=[0, 1]), new=step.round == 1)
    assert [(event["stage"], event["round"]) for event in heard] == [
        (f"member 00{i}", 1) for i in range(3)
    ]


# --- names and files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ["member 000", "member 001"]),
        (
            ["ensemble.errors=out_of_fold", "ensemble.folds=2"],
            [
                *("member 000", "member 000 fold 0", "member 000 fold 1"),
                *("member 001", "member 001 fold 0", "member 001 fold 1"),
            ],
        ),
        (
            ["ensemble.schedule=pipelined", "ensemble.rounds=3", "member.epochs=6"],
            [
                *("member 000 round 0", "member 000 round 1", "member 000"),
                *("member 001 round 0", "member 001 round 1", "member 001"),
            ],
        ),
    ],
)
def test_the_names_of_all_steps(overrides, expected):
    config = load_config(None, ["task=sst2", "ensemble.members=2", *overrides])
    assert member_steps(config) == expected


def test_weights_are_kept_for_people_and_damage_is_noticed(tmp_path):
    ensemble = make("ensemble.members=1", directory=tmp_path)
    [step] = ensemble.start()
    assert not keep_weights(step, Location.of(tmp_path))
    file = tmp_path / "weights" / "000.npy"
    assert np.load(file).tolist() == [1 / N] * N
    before = file.stat()
    assert keep_weights(step, Location.of(tmp_path))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    content = file.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        assert not keep_weights(step, Location.of(tmp_path))
        assert file.read_bytes() == content


def test_a_round_keeps_its_own_weights(tmp_path):
    ensemble = make(*PIPELINED, directory=tmp_path)
    due = ensemble.start()
    while due:
        step = due.pop(0)
        keep_weights(step, Location.of(tmp_path))
        due += ensemble.advance(*made(step, wrong=[step.member]))
    kept = {path.name: np.load(path).tolist() for path in (tmp_path / "weights").iterdir()}
    assert sorted(kept) == sorted(
        name for i in range(3) for name in (f"00{i}-round-0.npy", f"00{i}.npy")
    )
    assert kept["002-round-0.npy"] == [1 / N] * N
    assert kept["002.npy"] != [1 / N] * N
