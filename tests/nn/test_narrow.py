from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from bebert_ray.nn.narrow import Importance, importance, keep_layers_, kept_count, narrow_

Make = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]
HEADS, NEURONS, HEAD_SIZE = 4, 64, 8


def logits(model: BertForSequenceClassification, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize(
    ("total", "width", "count"),
    [(12, 0.5, 6), (12, 1.0, 12), (12, 0.25, 3), (4, 0.01, 1), (64, 0.33, 21)],
)
def test_kept_count(total: int, width: float, count: int) -> None:
    assert kept_count(total, width) == count


def test_the_most_important_are_kept_in_their_old_order(make: Make, ranks: Importance) -> None:
    model, before = make(), make()
    narrow_(model, 0.5, ranks)
    for i in range(2):
        layer: Any = model.bert.encoder.layer[i]
        old: Any = before.bert.encoder.layer[i]
        heads = sorted(sorted(range(HEADS), key=lambda h: -ranks.heads[i][h])[:2])
        rows = [h * HEAD_SIZE + j for h in heads for j in range(HEAD_SIZE)]
        for name in ("query", "key", "value"):
            ours, theirs = getattr(layer.attention.self, name), getattr(old.attention.self, name)
            assert torch.equal(ours.weight, theirs.weight[rows])
            assert torch.equal(ours.bias, theirs.bias[rows])
        ours, theirs = layer.attention.output.dense, old.attention.output.dense
        assert torch.equal(ours.weight, theirs.weight[:, rows])
        assert torch.equal(ours.bias, theirs.bias)
        neurons = sorted(sorted(range(NEURONS), key=lambda n: -ranks.neurons[i][n])[:32])
        assert torch.equal(layer.intermediate.dense.weight, old.intermediate.dense.weight[neurons])
        assert torch.equal(layer.intermediate.dense.bias, old.intermediate.dense.bias[neurons])
        assert torch.equal(layer.output.dense.weight, old.output.dense.weight[:, neurons])
    assert model.config.width == 0.5


def test_equals_fall_to_the_first(make: Make) -> None:
    ties = Importance([torch.zeros(HEADS)] * 2, [torch.zeros(NEURONS)] * 2)
    ranked, unranked = make(), make()
    narrow_(ranked, 0.5, ties)
    narrow_(unranked, 0.5)
    assert all(map(torch.equal, ranked.parameters(), unranked.parameters()))


def test_width_one_keeps_the_function(make: Make, batch: Batch, ranks: Importance) -> None:
    model = make()
    before = logits(model, batch)
    narrow_(model, 1.0, ranks)
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_dropping_what_has_no_say_keeps_the_function(
    make: Make, batch: Batch, ranks: Importance, width: float
) -> None:
    model = make()
    whole = logits(model, batch)
    with torch.no_grad():
        for i in range(2):
            layer: Any = model.bert.encoder.layer[i]
            for head in ranks.heads[i].argsort()[: HEADS - kept_count(HEADS, width)].tolist():
                columns = slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)
                layer.attention.output.dense.weight[:, columns] = 0
            dropped = ranks.neurons[i].argsort()[: NEURONS - kept_count(NEURONS, width)]
            layer.output.dense.weight[:, dropped] = 0
    before = logits(model, batch)
    assert not torch.allclose(before, whole, atol=1e-3)
    narrow_(model, width, ranks)
    torch.testing.assert_close(logits(model, batch), before, rtol=1e-5, atol=1e-6)


def test_importance_is_the_gradient_of_explicit_masks(make: Make, batch: Batch) -> None:
    model = make()
    batches = [batch, {name: tensor.flip(0)[:2] for name, tensor in batch.items()}]
    labels = torch.tensor([0, 2, 1])

    def losses() -> Iterator[Tensor]:
        for batch in batches:
            yield F.cross_entropy(model(**batch).logits, labels[: len(batch["input_ids"])])

    ours = importance(model, losses())
    assert all(p.grad is None for p in model.parameters())

    heads = [torch.ones(HEADS, requires_grad=True) for _ in range(2)]
    neurons = [torch.ones(NEURONS, requires_grad=True) for _ in range(2)]

    def masked_by(mask: Tensor, size: int) -> Any:
        return lambda _, inputs: (inputs[0] * mask.repeat_interleave(size),)

    for i in range(2):
        layer: Any = model.bert.encoder.layer[i]
        layer.attention.output.dense.register_forward_pre_hook(masked_by(heads[i], HEAD_SIZE))
        layer.output.dense.register_forward_pre_hook(masked_by(neurons[i], 1))
    masks = [*heads, *neurons]
    theirs = [torch.zeros_like(mask) for mask in masks]
    for loss in losses():
        grads = torch.autograd.grad(loss, masks)
        theirs = [total + grad.abs() for total, grad in zip(theirs, grads, strict=True)]
    for mine, other in zip([*ours.heads, *ours.neurons], theirs, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_the_first_layers_are_kept(make: Make) -> None:
    model = make()
    layers: Any = model.bert.encoder.layer
    first = layers[0]
    keep_layers_(model, 1)
    kept: Any = model.bert.encoder.layer
    assert list(kept) == [first]
    assert model.config.num_hidden_layers == 1
    with pytest.raises(ValueError, match="has 1 layers, not 2"):
        keep_layers_(model, 2)
