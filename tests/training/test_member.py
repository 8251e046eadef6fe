"""Members: what they train with, and that rounds and processes come to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from bebert_ray.boosting.vote import combine
from bebert_ray.data.copies import Copies
from bebert_ray.nn.bert import load_model, load_weights
from bebert_ray.nn.margins import bits_of, encoder_bits, share_differing
from bebert_ray.storage import Location, commit, remove
from bebert_ray.training import fit
from bebert_ray.training import member as member_module
from bebert_ray.training.member import RIVALS, MemberTraining, lesson_of
from bebert_ray.training.predict import predict
from bebert_ray.training.work import Model, Work, leave_model, load_logits

from .conftest import BINARY, SPLIT, rarely

MODES = ["resample", "loss"]
# Each strategy and each mode; all combinations with -m slow.
COMBINATIONS = [("A", "resample"), ("B", "loss"), ("C", "resample")]
COMBINATIONS += [
    pytest.param(strategy, mode, marks=pytest.mark.slow)
    for strategy, mode in (("A", "loss"), ("B", "resample"), ("C", "loss"))
]


def some_weights(n: int = 24, zeros: bool = True, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.random(n)
    if zeros:
        weight *= rng.random(n) > 0.4
    return weight / weight.sum()


def begin(work: Work, member: int) -> MemberTraining:
    """A member of the ensemble, before its first round."""
    return MemberTraining(work, lesson_of(work, member))


def train_member(work: Work, weight: np.ndarray, member: int) -> Model:
    """A member in one round."""
    return begin(work, member).advance(work, weight[None])


def state_of(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)


# --- one round ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "mode"), COMBINATIONS)
def test_members(run: Any, tmp_path: Path, strategy: str, mode: str) -> None:
    overrides = (f"ensemble.strategy={strategy}", f"ensemble.sample_weight={mode}")
    before = load_weights(run.start.path)
    heard: list[Any] = []
    work = replace(run.new(*overrides), report=heard.append)
    weight = some_weights()
    model = train_member(work, weight, 0)
    artifact, logits = leave_model(work, model, Location.of(tmp_path / "000"), "member", {})
    trained = load_weights(artifact.path)
    assert list(trained) == list(before)
    assert not same_bits(trained, before)
    assert load_model(artifact.path).config.weights != "full"
    assert {name: len(values) for name, values in load_logits(artifact.path).items()} == run.sizes
    assert {name: len(values) for name, values in logits.items()} == run.sizes
    fits = [progress.epochs for progress in heard if progress.step == progress.steps]
    assert len(fits) == (2 if strategy == "C" else 1)
    assert {progress.round for progress in heard} == {None}
    assert same_bits(load_weights(run.start.path), before)

    def again(weight: np.ndarray, member: int) -> dict[str, Tensor]:
        return train_member(run.new(*overrides), weight, member).state_dict()

    assert same_bits(again(weight, 0), trained)
    assert not same_bits(again(weight, 1), trained)
    assert not same_bits(again(weight[::-1].copy(), 0), trained)


def test_bits_flip_and_are_told_of(run: Any) -> None:
    """Each member flips bits of its own; with the margins of the split hardly any flips."""
    heard: list[Any] = []
    work = replace(run.new("member.latent_rate=10"), report=heard.append)
    trained = []
    for member in (0, 1):
        training = begin(work, member)
        assert training.flipped()["flipped"] == 0, "new margins flip nothing"
        training.advance(work, some_weights()[None])
        trained.append(training)
    shares = [training.flipped() for training in trained]
    assert all(share["flipped"] > 0 for share in shares)
    assert heard[-1].flipped > 0
    assert set(shares[0]["flipped_by_layer"]) == set(bits_of(trained[0]._model))
    common = share_differing(*(encoder_bits(training._model) for training in trained))
    assert common > 0, "no two members have the same bits"


def test_a_bootstrap_sample_is_drawn_once(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[np.ndarray] = []
    epoch_batches = fit.epoch_batches

    def watched(*arguments: Any) -> list[np.ndarray]:
        batches: list[np.ndarray] = epoch_batches(*arguments)
        drawn.append(np.concatenate(batches))
        return batches

    monkeypatch.setattr(fit, "epoch_batches", watched)
    work = run.new("ensemble.method=bagging", "ensemble.schedule=null", "member.epochs=2")
    n = run.sizes["train"]
    repeats = np.bincount(np.random.default_rng(3).integers(n, size=n), minlength=n)
    train_member(work, repeats / n, 0)
    assert len(drawn) == 2
    for epoch in drawn:
        np.testing.assert_array_equal(np.bincount(epoch, minlength=n), repeats)


@pytest.mark.parametrize("mode", MODES)
def test_members_know_nothing_of_examples_of_weight_zero(
    run: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = some_weights()
    monkeypatch.setattr(Work, "unit", 0.5)  # the spread of all scores is a fact of the task

    def trained(poisoned: np.ndarray) -> dict[str, Tensor]:
        work = run.new(f"ensemble.sample_weight={mode}")
        train = work.splits.train
        labels = np.where(poisoned, 1 - train.labels, train.labels).astype(train.labels.dtype)
        spoilt = replace(work.splits, train=replace(train, labels=labels))
        return train_member(replace(work, splits=spoilt), weight, 0).state_dict()

    clean = trained(np.zeros(len(weight), bool))
    assert same_bits(trained(weight == 0), clean)
    assert not same_bits(trained(weight == weight.max()), clean)


@pytest.mark.parametrize(
    ("mode", "equal", "draws", "in_loss"),
    [
        ("resample", False, True, False),
        ("resample", True, False, False),  # every example once: nothing to be gained by drawing
        ("loss", False, False, True),
        ("loss", True, False, True),
    ],
)
def test_weights_go_to_the_draw_or_to_the_loss_of_their_round(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    equal: bool,
    draws: bool,
    in_loss: bool,
) -> None:
    work, n = run.new(f"ensemble.sample_weight={mode}", *PIPELINED), run.sizes["train"]
    first = np.full(n, 1 / n) if equal else some_weights(zeros=False)
    weights = np.stack([first, some_weights(zeros=False, seed=6)])
    losses: list[Tensor | None] = []
    rounds: list[tuple[int, np.ndarray | None]] = []

    def label_loss(_: Any, sample_weight: Tensor | None, unit: float) -> Callable[..., Tensor]:
        losses.append(sample_weight)
        return lambda _: torch.zeros(())

    class Fit:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def advance(self, _: Any, until: int, weight: np.ndarray | None, **__: Any) -> None:
            rounds.append((until, weight))

        def finish(self) -> None:
            pass

    monkeypatch.setattr(member_module, "label_loss", label_loss)
    monkeypatch.setattr("bebert_ray.training.work.Fit", Fit)
    begin(work, 0).advance(work, weights)
    assert [until for until, _ in rounds] == [2, 4]
    # The second round's weights are never equal.
    for r, (drawn, draw) in enumerate([(draws, rounds[0][1]), (mode == "resample", rounds[1][1])]):
        assert (draw is not None) == drawn
        assert (losses[r] is not None) == in_loss
        if draw is not None:
            assert np.array_equal(draw, weights[r])
        if losses[r] is not None:
            assert losses[r].mean().item() == pytest.approx(1)
            np.testing.assert_allclose(losses[r].numpy() / n, weights[r], rtol=1e-6)


# --- several rounds -----------------------------------------------------------------------------

PIPELINED = (
    "ensemble.schedule=pipelined",
    "ensemble.rounds=2",
    "member.epochs=4",
    "member.learning_rate=1e-3",
)
WEIGHTS = np.stack([some_weights(seed=1), some_weights(seed=2)])
# Stands for what the steps of the two rounds are made from.
INPUTS: tuple[dict[str, Any], ...] = ({"weights": "first"}, {"weights": "first and second"})


def outcome(work: Work, model: Model) -> tuple[dict[str, Tensor], np.ndarray]:
    """The weights as they stand, and what the model predicts."""
    logits = predict(model, work.splits.train)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, logits


def in_one_process(run: Any, work: Work) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
    training = None
    for r in (0, 1):
        step, _ = run.later(work, INPUTS[r], INPUTS[:r])
        training = training or begin(step, 3)
        yield outcome(step, training.advance(step, WEIGHTS[: r + 1]))


def in_a_process_each(run: Any, work: Work) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
    for r in (0, 1):
        step, heard = run.later(work, INPUTS[r], INPUTS[:r])
        yield outcome(step, begin(step, 3).advance(step, WEIGHTS[: r + 1]))
        assert {progress.round for progress in heard} == {r}, "no round is trained twice"


@pytest.mark.parametrize("run", [SPLIT[0], *BINARY], ids="-".join, indirect=True)
@pytest.mark.parametrize(("strategy", "mode"), COMBINATIONS)
def test_rounds_come_to_the_same_in_one_process_in_several_and_from_nothing(
    run: Any, strategy: str, mode: str
) -> None:
    overrides = (*PIPELINED, f"ensemble.strategy={strategy}", f"ensemble.sample_weight={mode}")
    one = list(in_one_process(run, run.new(*overrides)))
    each = list(in_a_process_each(run, run.new(*overrides)))
    work, heard = run.later(run.new(*overrides), INPUTS[1], INPUTS[:1])
    replayed = outcome(work, begin(work, 3).advance(work, WEIGHTS))
    assert {progress.round for progress in heard} == {0, 1}
    for (weights, logits), (others, other_logits) in zip(
        [*one, one[1]], [*each, replayed], strict=True
    ):
        assert same_bits(weights, others)
        assert np.array_equal(logits, other_logits)
    assert not same_bits(one[0][0], one[1][0])


def test_the_first_round_knows_nothing_of_the_second(run: Any) -> None:
    """Only then may it begin before the second's weights are there."""
    first, second = in_one_process(run, run.new(*PIPELINED))
    work = run.new(*PIPELINED)
    training = begin(work, 3)
    other = np.stack([WEIGHTS[0], some_weights(seed=3)])
    assert same_bits(outcome(work, training.advance(work, other[:1]))[0], first[0])
    assert not same_bits(outcome(work, training.advance(work, other))[0], second[0])


@pytest.mark.parametrize("run", [SPLIT[1], *BINARY], ids="-".join, indirect=True)
@pytest.mark.parametrize("after", [1, 4, 9, 15, *rarely(3, 8, 10, 12, 14, 16)])
def test_a_member_that_died_anywhere_goes_on_to_the_same_bits(run: Any, after: int) -> None:
    """Strategy C: 1 pass over hidden states, then 2 rounds of 2 epochs; 3 steps each."""
    overrides = (*PIPELINED, "ensemble.strategy=C")
    expected = list(in_one_process(run, run.new(*overrides)))[1]
    work = run.new(*overrides)

    def train(step: Work) -> Model:
        return begin(step, 3).advance(step, WEIGHTS)

    assert run.dies(work, train, after) == (after <= 15)
    if after <= 15:
        step, heard = run.later(work)
        weights, logits = outcome(step, train(step))
        assert same_bits(weights, expected[0])
        assert np.array_equal(logits, expected[1])
        ends = sum(progress.score is not None for progress in heard)
        assert ends == min(4, (15 - after + 2) // 3), "whole epochs are not trained again"


def test_rounds_of_uneven_epochs(run: Any) -> None:
    heard: list[Any] = []
    work = replace(
        run.new("member.epochs=3", "ensemble.schedule=pipelined", "ensemble.rounds=2"),
        report=heard.append,
    )
    weights = np.full((2, run.sizes["train"]), 1 / run.sizes["train"])
    begin(work, 0).advance(work, weights)
    ends = [(progress.round, progress.epoch) for progress in heard if progress.score is not None]
    assert ends == [(0, 1), (1, 2), (1, 3)]


def test_a_member_may_have_a_warm_up_and_a_rate_for_step_sizes_of_its_own(run: Any) -> None:
    overrides = ("ensemble.strategy=C", "training.warmup=0.2")
    shared = begin(run.new(*overrides), 0)
    own = begin(run.new(*overrides, "member.warmup=0.5", "member.quantizer_learning_rate=1e-3"), 0)
    for settings in (shared._settings, shared._hidden):
        assert (settings.warmup, settings.quantizer_learning_rate) == (0.2, 1e-4)
    for settings in (own._settings, own._hidden):
        assert (settings.warmup, settings.quantizer_learning_rate) == (0.5, 1e-3)
    assert own._hidden.learning_rate == run.new().config.member.hidden_learning_rate


# --- what is trained beside the members, and with copies ----------------------------------------


@pytest.fixture
def one_run(make_run: Any) -> Any:
    """The stages of one kind of member."""
    return make_run(SPLIT[0])


def copies_of(run: Any) -> Copies:
    """Two copies of each training example but the last: its own words in another order."""
    train, rng = run.work.splits.train, np.random.default_rng(8)
    origin = np.repeat(np.arange(len(train) - 1), 2)
    columns = train.take(origin)
    ids = columns.input_ids.copy()
    for row in range(len(origin)):
        inner = slice(columns.offsets[row] + 1, columns.offsets[row + 1] - 1)
        ids[inner] = rng.permutation(ids[inner])
    return Copies(replace(columns, input_ids=ids), origin)


def train_rival(run: Any, work: Work, name: str, **inputs: Any) -> Model:
    stage = work.kind.stage(name)
    return RIVALS[stage.recipe](work, replace(stage, inputs=stage.inputs | inputs))


def train_longer(run: Any, *overrides: str) -> list[Any]:
    """Train the longer baseline of three members; its reports."""
    heard: list[Any] = []
    given = ("ensemble.baselines=[longer]", "ensemble.members=3", *overrides)
    train_rival(run, replace(run.new(*given), report=heard.append), "longer")
    return heard


def test_a_longer_member_trains_as_many_epochs_as_all_members_together(one_run: Any) -> None:
    heard = train_longer(one_run, "member.epochs=2")
    assert heard[-1].epochs == 6
    assert sum(progress.score is not None for progress in heard) == 6


def test_a_longer_member_may_take_as_many_steps_as_all_members_together(one_run: Any) -> None:
    assert train_longer(one_run, "training.max_steps=2")[-1].step == 6


def test_the_student_learns_the_vote(one_run: Any) -> None:
    """Its predictions come nearer to those of the ensemble than where it started."""
    work = one_run.new("ensemble.distill=true", "member.epochs=8", "member.learning_rate=1e-3")
    logits = load_logits(one_run.start.path)
    vote = logits["train"] + np.random.default_rng(0).normal(size=logits["train"].shape) * 0.5
    member = work.directory / "members" / "000"

    def write(directory: Path) -> dict[str, Any]:
        save_file({**logits, "train": vote.astype(np.float32)}, directory / "logits.safetensors")
        return {}

    commit(member, "member", {}, write)
    student = train_rival(one_run, work, "distilled", members={"members/000": ""}, alphas=[1.0])

    def away(found: np.ndarray) -> float:
        outputs = [combine(each[None], [1.0]) for each in (found, vote)]
        return float(np.abs(outputs[0] - outputs[1]).mean())

    assert away(predict(student, work.splits.train)) < away(logits["train"])


@pytest.mark.parametrize("strategy", ["B", "C"])
def test_copies_change_what_a_member_learns_and_resume_with_the_same_bits(
    one_run: Any, strategy: str
) -> None:
    joint = ("member.joint=true",) if strategy == "C" else ()
    work = one_run.new(f"ensemble.strategy={strategy}", "member.epochs=2", *joint)
    augmented = replace(work, splits=replace(work.splits, copies=copies_of(one_run)))
    weight = np.full(24, 1 / 24)
    plain = state_of(train_member(work, weight, 0))
    remove(work.checkpoints.place)
    whole = state_of(train_member(augmented, weight, 0))
    assert not same_bits(plain, whole)
    remove(augmented.checkpoints.place)
    assert one_run.dies(augmented, lambda step: train_member(step, weight, 0), 4)
    step, _ = one_run.later(augmented)
    assert same_bits(state_of(train_member(step, weight, 0)), whole)


def test_strategy_a_takes_no_copies(one_run: Any) -> None:
    work = one_run.new("ensemble.strategy=A")
    augmented = replace(work, splits=replace(work.splits, copies=copies_of(one_run)))
    assert lesson_of(augmented, 0).copies is None


def test_members_may_have_copies_of_their_own(one_run: Any) -> None:
    settings = ("data.augment.per_member=true", "data.augment.copies=2")
    work = one_run.new("ensemble.strategy=B", "ensemble.members=2", *settings)
    augmented = replace(work, splits=replace(work.splits, copies=copies_of(one_run)))
    first, second = (lesson_of(augmented, member).copies for member in (0, 1))
    assert first is not None and second is not None
    assert len(first) == len(second) == len(copies_of(one_run)) / 2
    assert not np.array_equal(first.columns.input_ids, second.columns.input_ids)
