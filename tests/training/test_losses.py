from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.data.batches import collate
from bebert_ray.data.columns import Columns
from bebert_ray.nn.attention import ATTENTION
from bebert_ray.training.losses import (
    direction_losses,
    distillation_losses,
    hidden_loss,
    inputs_of,
    label_loss,
    prediction_loss,
    projections,
    task_losses,
    weighted_mean,
)

Examples = Callable[..., Columns]


def bert(config: BertConfig, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification._from_config(config, attn_implementation=ATTENTION).eval()


@given(st.permutations(range(12)))
def test_weights_follow_the_index_and_not_the_position(order: list[int]) -> None:
    losses, weight, index = torch.rand(12).double(), torch.rand(40).double(), torch.arange(5, 17)
    expected = (losses * weight[5:17]).mean()
    shuffled = torch.tensor(order)
    got = weighted_mean(losses[shuffled], {"index": index[shuffled]}, weight)
    torch.testing.assert_close(got, expected)


def test_without_weights_it_is_the_mean() -> None:
    losses = torch.rand(5)
    assert torch.equal(weighted_mean(losses, {"index": torch.arange(5)}, None), losses.mean())
    ones = torch.ones(5)
    assert torch.equal(weighted_mean(losses, {"index": torch.arange(5)}, ones), losses.mean())


def test_every_loss_of_a_shuffled_batch_is_the_same(
    examples: Examples, tiny_config: BertConfig
) -> None:
    columns = examples(12)
    student, teacher = bert(tiny_config, 1).double(), bert(tiny_config, 2).double()
    weight, target = torch.rand(12).double(), torch.randn(12, 2).double()
    straight = np.arange(3, 11)
    shuffled = np.random.default_rng(0).permutation(straight)
    for loss in (
        label_loss(student, weight),
        prediction_loss(student, target, 2.0, weight),
        hidden_loss(student, teacher, "scores", weight),
    ):
        with torch.no_grad():
            expected, got = (loss(collate(columns, index)) for index in (straight, shuffled))
        # The logits are brought to float32 for the loss.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_task_losses() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = torch.stack([-logits[i].log_softmax(0)[labels[i]] for i in range(4)])
    torch.testing.assert_close(task_losses(logits, labels), expected)
    scores = torch.tensor([[1.0], [2.0]])
    assert task_losses(scores, torch.tensor([3.0, 2.5])).tolist() == [4, 0.25]
    assert task_losses(scores, torch.tensor([3.0, 2.5]), unit=2.0).tolist() == [1, 0.0625]
    torch.testing.assert_close(task_losses(logits, labels, unit=2.0), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_distillation_is_at_rest_only_at_the_teacher(num_labels: int, temperature: float) -> None:
    target = torch.randn(6, num_labels).double()
    for shift, at_rest in ((0.0, True), (0.5, False)):
        logits = target.clone()
        logits[:, 0] += shift
        logits.requires_grad_()
        distillation_losses(logits, target, temperature).sum().backward()
        assert logits.grad is not None
        assert (logits.grad.abs().max() < 1e-12) == at_rest


def test_distillation_by_hand() -> None:
    logits, target = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 0.0]])
    p = torch.sigmoid(torch.tensor(1.0))  # of the softened target: difference 2, temperature 2
    q = torch.sigmoid(torch.tensor(1.0))
    by_hand = -4 * (p * q.log() + (1 - p) * (1 - q).log())
    torch.testing.assert_close(distillation_losses(logits, target, 2.0), by_hand[None])
    squares = distillation_losses(torch.tensor([[1.0]]), torch.tensor([[3.0]]), 2.0)
    assert squares.tolist() == [4]
    halves = distillation_losses(torch.tensor([[1.0]]), torch.tensor([[3.0]]), 2.0, unit=2.0)
    assert halves.tolist() == [1]


def test_prediction_loss_looks_the_teacher_up_by_index(examples: Examples) -> None:
    columns, target = examples(10), torch.randn(10, 2)
    told: list[Tensor] = []

    def parrot(**_: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=told[-1])

    model: Any = parrot
    loss = prediction_loss(model, target, 1.0)
    index = np.array([7, 0, 3])
    told.append(target[[7, 0, 3]].clone().requires_grad_())
    loss(collate(columns, index)).backward()
    assert told[-1].grad is not None
    assert told[-1].grad.abs().max() < 1e-7


def test_hidden_loss_of_the_teacher_itself_is_zero(
    examples: Examples, tiny_config: BertConfig
) -> None:
    teacher, twin = bert(tiny_config, 1), bert(tiny_config, 1)
    loss = hidden_loss(twin, teacher, "scores")(collate(examples(6), np.arange(6)))
    assert loss.item() == 0


def directions_by_hand(
    student: BertForSequenceClassification, teacher: BertForSequenceClassification, one: Any
) -> Tensor:
    total = torch.zeros(())
    with projections(student) as ours, projections(teacher) as theirs, torch.no_grad():
        student(**one), teacher(**one)
    assert len(ours) == len(theirs) == 2 * 3  # layers, and queries, keys and values
    for x, y in zip(ours, theirs, strict=True):
        heads = zip(x[0], y[0], strict=True)  # [tokens, head_size] each
        distances = [
            (a @ a.T / (a @ a.T).norm() - b @ b.T / (b @ b.T).norm()).norm() ** 2 for a, b in heads
        ]
        total += sum(distances) / len(distances)
    return total


def test_directions_do_not_know_of_norms() -> None:
    x, pairs = torch.randn(2, 4, 5, 8), torch.ones(2, 5, 5)
    assert direction_losses(x, 3 * x, pairs).abs().max() < 1e-5
    rotation = torch.linalg.qr(torch.randn(8, 8)).Q
    assert direction_losses(x, x @ rotation, pairs).abs().max() < 1e-5
    other = direction_losses(x, torch.randn(2, 4, 5, 8), pairs)
    assert ((other > 0.1) & (other < 4)).all()


@pytest.mark.parametrize("match", ["scores", "directions", None])
def test_hidden_loss_counts_layers_and_no_padding(
    examples: Examples, tiny_config: BertConfig, match: Any
) -> None:
    columns = examples(5)
    student, teacher = bert(tiny_config, 1), bert(tiny_config, 2).train()
    batch = collate(columns, np.arange(5))
    loss = hidden_loss(student, teacher, match)
    assert not teacher.training
    by_hand = torch.zeros(5)
    for i in range(5):  # each example alone, without any padding
        length = int(columns.lengths[i])
        alone = {name: batch[name][i : i + 1, :length] for name in inputs_of(batch)}
        wanted = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            ours, theirs = student(**alone, **wanted), teacher(**alone, **wanted)
        by_hand[i] = sum(map(F.mse_loss, ours.hidden_states, theirs.hidden_states))
        if match == "scores":
            by_hand[i] += sum(map(F.mse_loss, ours.attentions, theirs.attentions))
        if match == "directions":
            by_hand[i] += directions_by_hand(student, teacher, alone)
    weight = torch.rand(5)
    weighted = hidden_loss(student, teacher, match, weight)
    with torch.no_grad():
        torch.testing.assert_close(loss(batch), by_hand.mean(), rtol=1e-4, atol=1e-6)
        expected = (by_hand * weight).mean()
        torch.testing.assert_close(weighted(batch), expected, rtol=1e-4, atol=1e-6)
        wider = {k: F.pad(v, (0, 8)) if v.dim() == 2 else v for k, v in batch.items()}
        torch.testing.assert_close(loss(wider), loss(batch), rtol=1e-5, atol=1e-6)


def test_hidden_loss_trains_the_student_only(examples: Examples, tiny_config: BertConfig) -> None:
    student, teacher = bert(tiny_config, 1), bert(tiny_config, 2)
    hidden_loss(student, teacher, "scores")(collate(examples(4), np.arange(4))).backward()
    assert all(p.grad is None for p in teacher.parameters())
    query: Any = student.bert.encoder.layer[1]
    assert query.attention.self.query.weight.grad.any()  # the scores of the last layer count
