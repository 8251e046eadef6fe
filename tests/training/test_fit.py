from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bebert_ray.data.columns import Columns
from bebert_ray.errors import RunError
from bebert_ray.storage import Location
from bebert_ray.training.checkpoints import Checkpoints, State
from bebert_ray.training.fit import Fit, Progress
from bebert_ray.training.losses import Batch, Loss, inputs_of, label_loss, weighted_mean
from bebert_ray.training.predict import predict
from bebert_ray.training.settings import FitSettings

Examples = Callable[..., Columns]
MakeBag = Callable[..., Any]
QUICK = FitSettings(epochs=3, learning_rate=0.05, batch_size=8, precision="fp32")


def settings(**changes: Any) -> FitSettings:
    return FitSettings(**(vars(QUICK) | changes))


def fit(
    model: nn.Module,
    columns: Columns,
    loss: Loss,
    settings: FitSettings,
    *,
    score: Callable[[], float] | None = None,
    sample_weight: np.ndarray | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> float | None:
    """A whole training, in one round."""
    training = Fit(model, columns, settings, score=score)
    training.advance(loss, settings.epochs, sample_weight, report=report)
    return training.finish()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def accuracy(model: nn.Module, columns: Columns) -> float:
    return float((predict(model, columns).argmax(1) == columns.labels).mean())


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(bag: MakeBag, examples: Examples, precision: str) -> None:
    model, train, dev = bag(), examples(256), examples(64, seed=1)
    before = accuracy(model, dev)
    best = fit(
        model,
        train,
        label_loss(model),
        settings(epochs=8, precision=precision),
        score=lambda: accuracy(model, dev),
    )
    assert before < 0.8
    assert best == accuracy(model, dev) == 1.0
    assert not model.training


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.9, 0.5], 1), ([0.5, 0.5, 0.4], 0), ([0.1, 0.2, 0.3], 2), ([-0.5, -0.9, -0.5], 0)],
)
def test_the_best_epoch_is_kept(
    bag: MakeBag, examples: Examples, scores: list[float], best: int
) -> None:
    model, seen = bag(), []

    def score() -> float:
        assert not model.training
        seen.append(state(model))
        return scores[len(seen) - 1]

    assert fit(model, examples(32), label_loss(model), QUICK, score=score) == scores[best]
    assert len(seen) == 3
    assert [same_bits(state(model), each) for each in seen] == [i == best for i in range(3)]


def test_without_a_score_the_last_epoch_is_kept(bag: MakeBag, examples: Examples) -> None:
    model, scored = bag(), bag()
    assert fit(model, examples(32), label_loss(model), QUICK) is None
    rising = iter(range(3))
    fit(scored, examples(32), label_loss(scored), QUICK, score=lambda: next(rising))
    assert same_bits(state(model), state(scored))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits(
    bag: MakeBag, examples: Examples, precision: str
) -> None:
    outcomes = []
    for seed in (7, 7, 8):
        model = bag(dropout=0.3)
        torch.manual_seed(len(outcomes))  # what went before must not matter
        changed = settings(seed=seed, precision=precision)
        fit(model, examples(32), label_loss(model), changed)
        outcomes.append(state(model))
    assert same_bits(outcomes[0], outcomes[1])
    assert not same_bits(outcomes[0], outcomes[2])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(
    bag: MakeBag, examples: Examples, value: float
) -> None:
    model = bag()
    honest = label_loss(model)
    scored: list[float] = []

    def loss(batch: Batch) -> Tensor:
        return honest(batch) + torch.where((batch["index"] == 5).any(), value, 0.0)

    with pytest.raises(RunError, match=r"the loss became (nan|inf) at step 4; a lower learning"):
        fit(model, examples(32), loss, QUICK, score=lambda: scored.append(0.0) or 0.0)
    assert not scored


def test_progress_is_reported(bag: MakeBag, examples: Examples) -> None:
    model, heard = bag(), list[Progress]()
    scores = iter([0.25, 0.5, 0.75])
    loss = label_loss(model)
    fit(model, examples(33), loss, QUICK, score=lambda: next(scores), report=heard.append)
    ends = [progress for progress in heard if progress.score is not None]
    assert [(p.epoch, p.step, p.score) for p in ends] == [(1, 5, 0.25), (2, 10, 0.5), (3, 15, 0.75)]
    assert {(p.epochs, p.steps) for p in heard} == {(3, 15)}
    assert all(np.isfinite(p.loss) and p.examples_per_second > 0 for p in heard)
    assert all(10**7 < p.memory < 10**12 and p.round is None for p in heard)
    assert ends[0].learning_rate > ends[1].learning_rate > ends[2].learning_rate == 0


# --- whose weight is whose ----------------------------------------------------------------------


def named(n: int) -> Columns:
    """Columns in which each word of example i is i + 1: an example is known by its content."""
    lengths = np.random.default_rng(0).integers(1, 20, n)
    ids = np.repeat(np.arange(1, n + 1, dtype=np.int32), lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Columns(ids, np.zeros(len(ids), np.int8), offsets, np.arange(n) % 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_no_shuffling_changes_which_example_gets_which_weight(
    bag: MakeBag, seed: int, batch_size: int
) -> None:
    n, model = 50, bag()
    weight = torch.from_numpy(np.random.default_rng(1).permutation(n) + 1.0)  # all different
    got: dict[int, Counter[float]] = defaultdict(Counter)
    orders: set[tuple[int, ...]] = set()
    order: list[int] = []

    def spy(batch: Batch) -> Tensor:
        for row, index in enumerate(batch["index"]):
            words = batch["input_ids"][row][batch["attention_mask"][row] == 1]
            (example,) = (words - 1).unique().tolist()  # what is really in this row
            one = weighted_mean(torch.ones(1), {"index": index[None]}, weight)
            got[example][one.item()] += 1
            order.append(example)
        if len(order) == n:
            orders.add(tuple(order))
            order.clear()
        return model(**inputs_of(batch)).logits.mean()

    fit(model, named(n), spy, settings(epochs=4, seed=seed, batch_size=batch_size))
    assert got == {example: {weight[example].item(): 4} for example in range(n)}
    assert len(orders) == 4  # they were shuffled, anew in each epoch


def test_draws_follow_the_weights_example_by_example(bag: MakeBag) -> None:
    n, epochs, model = 50, 60, bag()
    weight = np.arange(n) / np.arange(n).sum()
    drawn = np.zeros(n)

    def spy(batch: Batch) -> Tensor:
        examples = batch["input_ids"][:, 0] - 1
        assert torch.equal(examples, batch["index"])
        np.add.at(drawn, examples.numpy(), 1)
        return model(**inputs_of(batch)).logits.mean()

    fit(model, named(n), spy, settings(epochs=epochs), sample_weight=weight)
    assert drawn.sum() == n * epochs
    assert drawn[0] == 0
    expected = weight * n * epochs
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("mode", ["resample", "loss"])
@pytest.mark.parametrize("seed", range(3))
def test_an_example_of_weight_zero_has_no_influence(
    bag: MakeBag, examples: Examples, mode: str, seed: int
) -> None:
    train = examples(40)
    rng = np.random.default_rng(seed)
    weight = rng.random(40) * (rng.random(40) > 0.4)
    weight /= weight.sum()

    def trained(poisoned: np.ndarray) -> dict[str, Tensor]:
        labels = np.where(poisoned, 1 - train.labels, train.labels)
        columns = Columns(train.input_ids, train.token_type_ids, train.offsets, labels)
        model = bag()
        in_loss = torch.from_numpy(weight * 40).float() if mode == "loss" else None
        draw = weight if mode == "resample" else None
        fit(model, columns, label_loss(model, in_loss), settings(seed=seed), sample_weight=draw)
        return state(model)

    clean = trained(np.zeros(40, bool))
    assert same_bits(trained(weight == 0), clean)
    likeliest = np.arange(40) == weight.argmax()
    assert not same_bits(trained(likeliest), clean)


# --- stopped and taken up again -----------------------------------------------------------------

ROUNDS = (1, 2, 4)  # epochs done at their ends
STEPS = 4 * 5


class Rounds:
    """A training in rounds, each with weights of its own, in as many processes as it takes."""

    def __init__(self, bag: MakeBag, examples: Examples, precision: str, mode: str):
        self._columns, self._dev = examples(40), examples(20, seed=1)
        self._bag, self._mode = bag, mode
        self._settings = settings(
            epochs=ROUNDS[-1], precision=precision, checkpoint_every=1, seed=11
        )
        self._weights = [np.random.default_rng(r).dirichlet(np.ones(40)) for r in range(3)]

    def train(
        self, place: Path | None, begin: State | None = None
    ) -> tuple[list[State], dict[str, Tensor], list[float]]:
        """Train from a state, or from the beginning.

        Returns:
            The states after each step, as they come back from the disk if there is a `place`; the
            weights at the end; and the scores: of the epochs, and of the weights at the end.
        """
        model = self._bag(dropout=0.4)
        scores: list[float] = []

        def score() -> float:  # as good as random, but of the weights alone
            scores.append(math.sin(1e4 * predict(model, self._dev).sum()))
            return scores[-1]

        training = Fit(model, self._columns, self._settings, score=score, phase=1)
        torch.manual_seed(99)  # another process has another state
        if begin is not None:
            training.restore(begin)
        states: list[State] = []

        def keep(state: State) -> None:
            if place is None:
                states.append(state)  # a count
                return
            checkpoints = Checkpoints(Location.of(place / str(len(states))), {})
            checkpoints.save(state)
            states.append(Checkpoints(checkpoints.place, {}).load())

        if begin is None:
            torch.manual_seed(self._settings.seed)
        for until, weight in zip(ROUNDS, self._weights, strict=True):
            in_loss = torch.from_numpy(weight * 40).float() if self._mode == "loss" else None
            draw = weight if self._mode == "resample" else None
            training.advance(label_loss(model, in_loss), until, draw, keep=keep)
        best = training.finish()
        assert best is not None and not model.training
        return states, state(model), [*scores, best]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["plain", "resample", "loss"])
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(
    bag: MakeBag, examples: Examples, tmp_path: Path, precision: str, mode: str
) -> None:
    """With dropout, sparse tables, weights that change from round to round, and a best epoch."""
    rounds = Rounds(bag, examples, precision, mode)
    states, undisturbed, scores = rounds.train(tmp_path)
    assert len(states) == STEPS
    for done, begin in enumerate(states, start=1):
        rest, weights, later_scores = rounds.train(None, begin)
        assert same_bits(weights, undisturbed), f"stopped after step {done}"
        assert later_scores == scores[-len(later_scores) :]
        assert len(rest) == STEPS - done, "nothing is trained twice"


def test_the_best_epoch_so_far_is_in_the_state_once_the_model_has_moved_on(
    bag: MakeBag, examples: Examples
) -> None:
    def trained(begin: State | None, scores: Iterator[float]) -> tuple[list[State], list[Any]]:
        model, states, seen = bag(), list[State](), list[Any]()

        def score() -> float:
            seen.append(state(model))
            return next(scores)

        training = Fit(model, examples(16), settings(checkpoint_every=1), score=score)
        if begin is not None:
            training.restore(begin)
        training.advance(label_loss(model), 3, keep=lambda state: states.append(deepcopy(state)))
        training.finish()
        return states, [*seen, state(model)]

    states, (first, second, third, final) = trained(None, iter([0.1, 0.9, 0.5]))
    assert same_bits(final, second) and not same_bits(final, third)
    has_best = [any(name.startswith("best.") for name in each.tensors) for each in states]
    assert has_best == [False, False, True, False, True, True]  # two steps an epoch
    # In the middle of the third epoch, and at its end: the second is still the best.
    for begin in states[4:]:
        _, (*_, resumed) = trained(begin, iter([0.5]))
        assert same_bits(resumed, second)
    assert not same_bits(first, second)


def test_only_the_last_round_has_a_best_epoch(bag: MakeBag, examples: Examples) -> None:
    """The rounds before have seen other weights."""
    model, seen, scores = bag(), [], iter([0.9, 0.8, 0.1, 0.2, 0.15, 0.0])

    def score() -> float:
        seen.append(state(model))
        return next(scores)

    training = Fit(model, examples(16), settings(epochs=6), score=score)
    for until in (2, 4, 6):
        training.advance(label_loss(model), until)
        assert same_bits(state(model), seen[-1]), "a round goes on from where the last one ended"
    assert training.finish() == 0.15
    assert same_bits(state(model), seen[4])


def test_rounds_are_no_more_than_epochs_with_weights_of_their_own(
    bag: MakeBag, examples: Examples
) -> None:
    """The optimizers and the schedule go on: with equal weights, rounds make no difference."""
    outcomes = []
    for rounds in ([3], [1, 2, 3], [1, 1, 3, 3]):
        model = bag(dropout=0.3)
        training = Fit(model, examples(32), QUICK)
        for until in rounds:
            training.advance(label_loss(model), until)
        training.finish()
        outcomes.append(state(model))
    assert all(same_bits(outcomes[0], each) for each in outcomes[1:])


@pytest.mark.parametrize(
    ("every", "kept"),
    [
        (100, [(1, 0), (2, 0), (3, 0)]),  # the end of each epoch
        (3, [(0, 3), (1, 0), (1, 1), (1, 4), (2, 0), (2, 2), (3, 0)]),  # steps 3, 6, 9, 12 too
        (5, [(1, 0), (2, 0), (3, 0)]),  # these are the ends: kept once
    ],
)
def test_states_are_kept_at_the_ends_of_epochs_and_every_so_many_steps(
    bag: MakeBag, examples: Examples, every: int, kept: list[tuple[int, int]]
) -> None:
    model, states = bag(), list[State]()
    training = Fit(model, examples(40), settings(checkpoint_every=every), phase=2)
    training.advance(label_loss(model), 3, keep=states.append)
    assert [(each.facts["epoch"], each.facts["step"]) for each in states] == kept
    assert {each.facts["phase"] for each in states} == {2}


def test_reports_go_on_counting(bag: MakeBag, examples: Examples) -> None:
    model, states, heard = bag(), list[State](), list[Progress]()
    training = Fit(model, examples(40), settings(checkpoint_every=2), score=lambda: 0.5)
    training.advance(label_loss(model), 1, keep=states.append)
    again = bag(1)
    resumed = Fit(again, examples(40), QUICK, score=lambda: 0.5)
    resumed.restore(states[0])
    resumed.advance(label_loss(again), 3, report=heard.append)
    assert [(p.epoch, p.step, p.steps) for p in heard] == [(1, 5, 15), (2, 10, 15), (3, 15, 15)]
