"""Batches in pieces, activations computed twice, and trainings that end early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bebert_ray.data.batches import collate
from bebert_ray.data.columns import Columns
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.quantizers import calibrate_
from bebert_ray.nn.split import split_, ternarize_
from bebert_ray.training.checkpoints import State
from bebert_ray.training.fit import Fit, Progress
from bebert_ray.training.losses import hidden_loss, inputs_of, label_loss
from bebert_ray.training.predict import predict
from bebert_ray.training.settings import FitSettings
from bebert_ray.training.step import accumulate_

Examples = Callable[..., Columns]
MakeBag = Callable[..., Any]


def settings(**changes: Any) -> FitSettings:
    usual = {"epochs": 4, "learning_rate": 0.05, "batch_size": 8, "precision": "fp32"}
    return FitSettings(**(usual | changes))


@pytest.fixture
def member(tiny_checkpoint: Path, examples: Examples) -> Any:
    """A tiny split model with LSQ, and its batch of 8 examples."""
    columns = examples(8)
    batch = collate(columns, columns.labels.argsort())
    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, dropout=0.0)
    ternarize_(model, 4)
    calibrate_(model, inputs_of(batch))
    split_(model)
    return model.train(), batch


def gradients(model: Any) -> dict[str, Tensor]:
    found = {
        name: parameter.grad.to_dense().clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return found


@pytest.mark.parametrize("pieces", [2, 3, 8, 99])
def test_pieces_of_a_batch_give_the_gradients_of_the_batch(member: Any, pieces: int) -> None:
    model, batch = member
    whole = accumulate_(model, label_loss(model), batch, settings())
    expected = gradients(model)
    sizes: list[int] = []

    def loss(piece: dict[str, Tensor]) -> Tensor:
        sizes.append(len(piece["index"]))
        return label_loss(model)(piece)

    value = accumulate_(model, loss, batch, settings(accumulate=pieces))
    assert sum(sizes) == 8 and len(sizes) == min(pieces, 8)
    torch.testing.assert_close(value, whole)
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert any(name.endswith("step") for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["labels", "scores"])
def test_activations_computed_twice_give_the_same_gradients(member: Any, kind: str) -> None:
    model, batch = member
    teacher = deepcopy(model)

    def measured() -> dict[str, Tensor]:
        loss = label_loss(model) if kind == "labels" else hidden_loss(model, teacher, "scores")
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(1.01)
        torch.manual_seed(1)
        accumulate_(model, loss, batch, settings())
        return gradients(model)

    plain, teacher = measured(), deepcopy(model)
    calls: list[int] = []
    layer = model.bert.encoder.layer[0].intermediate
    layer.register_forward_hook(lambda *_: calls.append(1))
    columns = _columns_of(batch)
    Fit(model, columns, settings(gradient_checkpointing=True))
    model.train()
    twice = measured()
    assert len(calls) == 2
    assert twice.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.equal(twice[name], gradient), name


def _columns_of(batch: dict[str, Tensor]) -> Columns:
    class Some:
        lengths = batch["index"].numpy()

        def __len__(self) -> int:
            return 8

    return Some()  # type: ignore[return-value]


class Limited:
    """A training that scores within epochs, in as many processes as it takes."""

    def __init__(self, bag: MakeBag, examples: Examples, **changes: Any):
        self._bag, self._columns = bag, examples(40)  # 5 steps an epoch
        self._dev = examples(20, seed=1)
        self._settings = settings(checkpoint_every=1, seed=11, **changes)
        self.reports: list[Progress] = []
        self.scores: list[float] = []

    def train(
        self, begin: State | None = None, scores: Iterator[float] | None = None
    ) -> tuple[list[State], dict[str, Tensor], float | None]:
        model = self._bag(dropout=0.4)
        self.scores, self.reports = [], []

        def score() -> float:  # as good as random, but of the weights alone
            of_weights = math.sin(1e4 * predict(model, self._dev).sum())
            self.scores.append(of_weights if scores is None else next(scores))
            return self.scores[-1]

        fit = Fit(model, self._columns, self._settings, score=score)
        if begin is not None:
            torch.manual_seed(99)  # another process has another state
            fit.restore(begin)
        states: list[State] = []
        fit.advance(
            label_loss(model),
            4,
            report=self.reports.append,
            keep=lambda state: states.append(deepcopy(state)),
        )
        best = fit.finish()
        return states, {n: t.clone() for n, t in model.state_dict().items()}, best


def test_it_ends_after_the_most_steps_and_the_rate_is_zero_by_then(
    bag: MakeBag, examples: Examples
) -> None:
    training = Limited(bag, examples, max_steps=7)
    states, _, _ = training.train()
    assert len(states) == 7
    last = training.reports[-1]
    assert (last.step, last.steps, last.learning_rate) == (7, 7, 0.0)
    assert len(training.scores) == 2  # after the whole epoch, and at the end


def test_rounds_after_the_most_steps_leave_the_best_weights(
    bag: MakeBag, examples: Examples
) -> None:
    model, scores = bag(dropout=0.4), iter([0.9, 0.5])
    fit = Fit(model, examples(40), settings(max_steps=10), score=lambda: next(scores))
    for until in (2, 3, 4):  # the steps are over with the first
        fit.advance(label_loss(model), until)
    assert fit.finish() == 0.9


def test_it_scores_every_so_many_steps_and_at_the_end_of_epochs(
    bag: MakeBag, examples: Examples
) -> None:
    training = Limited(bag, examples, epochs=4, eval_every=2)
    training.train()
    scored = [report.step for report in training.reports if report.score is not None]
    assert scored == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]


def test_it_ends_when_scores_get_no_better_with_the_best_weights(
    bag: MakeBag, examples: Examples
) -> None:
    training = Limited(bag, examples, eval_every=2, patience=3)
    states, weights, best = training.train(scores=iter([0.1, 0.5, 0.4, 0.5, 0.3]))
    assert len(states) == 8  # scores after 2, 4, 5, 6 and 8 steps; the second is the best
    assert best == 0.5
    kept = states[3].tensors  # a model that has not moved on is the best itself
    assert all(torch.equal(kept[f"model.{name}"], value) for name, value in weights.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"eval_every": 2, "patience": 4},
        {"eval_every": 3, "max_steps": 13},
        {"accumulate": 3, "max_steps": 9},
        {"patience": 1},
    ],
)
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(
    bag: MakeBag, examples: Examples, changes: dict[str, Any]
) -> None:
    training = Limited(bag, examples, **changes)
    states, undisturbed, best = training.train()
    scores = training.scores
    for done, begin in enumerate(states, start=1):
        rest, weights, best_again = training.train(begin)
        assert len(rest) == len(states) - done, "nothing is trained twice"
        assert best_again == best
        assert training.scores == scores[len(scores) - len(training.scores) :]
        assert all(torch.equal(weights[n], undisturbed[n]) for n in weights), done
