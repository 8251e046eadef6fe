"""Smaller BERT: its first layers, or the most important heads and neurons of each (DynaBERT)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from bebert_ray.nn.shape import Shape


@dataclass(frozen=True)
class Importance:
    """The sensitivity of the loss to each head and neuron: a tensor a layer, [heads], [neurons]."""

    heads: list[Tensor]
    neurons: list[Tensor]


def kept_count(total: int, width: float) -> int:
    """The number of heads or neurons, of `total`, that a width keeps: at least one.

    Examples:
        >>> kept_count(12, 0.5), kept_count(12, 0.01)
        (6, 1)
    """
    return max(1, round(total * width))


def importance(model: BertForSequenceClassification, losses: Iterable[Tensor]) -> Importance:
    """Rank heads and neurons by ``sum over batches of |dL/dm|``, m a mask on their outputs.

    A mask on an input of a linear map has the gradient ``dL/dm_j = sum_i W_ij dL/dW_ij``, so that
    the weight gradients are all that is needed.

    Args:
        model: a BERT with unquantized layers.
        losses: yields the loss of one batch after another, computed with `model`.

    Source: DynaBERT (Hou et al., 2020), section 2.1; head masks after Michel et al., 2019.
    """
    layers: Any = model.bert.encoder.layer
    heads = [torch.zeros(layer.attention.self.num_attention_heads) for layer in layers]
    neurons = [torch.zeros(layer.intermediate.dense.out_features) for layer in layers]
    for loss in losses:
        model.zero_grad()
        loss.backward()
        for i, layer in enumerate(layers):
            head_columns = _mask_gradient(layer.attention.output.dense)
            heads[i] += head_columns.view(len(heads[i]), -1).sum(1).abs().cpu()
            neurons[i] += _mask_gradient(layer.output.dense).abs().cpu()
    model.zero_grad()
    return Importance(heads, neurons)


def narrow_(
    model: BertForSequenceClassification, width: float, importance: Importance | None = None
) -> None:
    """Keep the best `width` of the heads and FFN neurons of every layer, in place.

    The head size does not change.

    Args:
        model: a BERT with unquantized layers.
        width: fraction to keep, 0 < width <= 1.
        importance: what to rank by; None keeps the first ones (to rebuild the shape of a saved
            model).
    """
    layers: Any = model.bert.encoder.layer
    for i, layer in enumerate(layers):
        attention = layer.attention.self
        head_size = attention.attention_head_size
        count = kept_count(attention.num_attention_heads, width)
        heads = _best(count, importance.heads[i] if importance else None)
        columns = (heads[:, None] * head_size + torch.arange(head_size)).flatten()
        for projection in (attention.query, attention.key, attention.value):
            _keep_outputs_(projection, columns)
        _keep_inputs_(layer.attention.output.dense, columns)
        attention.num_attention_heads = count
        attention.all_head_size = count * head_size

        total = layer.intermediate.dense.out_features
        count = kept_count(total, width)
        neurons = _best(count, importance.neurons[i] if importance else None)
        _keep_outputs_(layer.intermediate.dense, neurons)
        _keep_inputs_(layer.output.dense, neurons)
    replace(Shape.of(model.config), width=width).write_to(model.config)


def keep_layers_(model: BertForSequenceClassification, count: int) -> None:
    """Keep the first `count` of the layers, in place.

    Raises:
        ValueError: the model has fewer.
    """
    layers: Any = model.bert.encoder.layer
    if not 1 <= count <= len(layers):
        raise ValueError(f"the model has {len(layers)} layers, not {count}")
    model.bert.encoder.layer = layers[:count]
    model.config.num_hidden_layers = count


def _mask_gradient(linear: nn.Linear) -> Tensor:
    weight: Any = linear.weight
    return (weight * weight.grad).detach().sum(0)


def _best(count: int, score: Tensor | None) -> Tensor:
    if score is None:
        return torch.arange(count)
    # A stable sort, so that ties fall the same way on every machine; kept in their old order.
    return score.argsort(descending=True, stable=True)[:count].sort().values


def _keep_outputs_(linear: nn.Linear, rows: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[rows].clone())
    linear.bias = nn.Parameter(linear.bias.detach()[rows].clone())
    linear.out_features = len(rows)


def _keep_inputs_(linear: nn.Linear, columns: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[:, columns].clone())
    linear.in_features = len(columns)
