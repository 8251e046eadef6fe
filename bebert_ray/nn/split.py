"""From full precision to ternary (TWN), and on to two binary halves (ternary weight splitting)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import BertForSequenceClassification
from transformers.activations import ACT2FN

from bebert_ray.nn.attention import AttentionQuantizers
from bebert_ray.nn.functions import ternary_mask, ternary_scale
from bebert_ray.nn.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear
from bebert_ray.nn.shape import Shape

LEAST_SHARE = 0.01  # of a kept weight that a half gets


def ternarize_(model: BertForSequenceClassification, activation_bits: int) -> None:
    """Give the model ternary weights and word embeddings and quantized activations, in place.

    The classifier, the position and token-type embeddings and LayerNorm stay in full precision.
    Below 8 bits the FFN turns to ReLU, whose outputs four bits can hold (BinaryBERT, section 4.1).

    Args:
        model: a BERT with unquantized layers; its weights become the latent weights.
        activation_bits: width of every activation that enters a matrix product.
    """
    bert: Any = model.bert
    bert.embeddings.word_embeddings = TernaryEmbedding(bert.embeddings.word_embeddings)
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        attention.quantizers = AttentionQuantizers(activation_bits)
        for name in ("query", "key", "value"):
            setattr(attention, name, TernaryLinear(getattr(attention, name), activation_bits))
        layer.attention.output.dense = TernaryLinear(layer.attention.output.dense, activation_bits)
        layer.intermediate.dense = TernaryLinear(layer.intermediate.dense, activation_bits)
        if activation_bits < 8:
            layer.intermediate.intermediate_act_fn = ACT2FN["relu"]
        layer.output.dense = TernaryLinear(layer.output.dense, activation_bits, symmetric=False)
    bert.pooler.dense = TernaryLinear(bert.pooler.dense, activation_bits)
    width = Shape.of(model.config).width
    Shape(width, "ternary", activation_bits).write_to(model.config)


@torch.no_grad()
def split_(model: BertForSequenceClassification) -> None:
    """Split every ternary layer into two binary halves, in place; the function stays the same."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TernaryLinear):
                setattr(parent, name, SplitLinear(child, split_weight(child.weight)))
            elif isinstance(child, TernaryEmbedding):
                setattr(
                    parent, name, SplitEmbedding(child, split_weight(child.weight, per_row=True))
                )
    replace(Shape.of(model.config), weights="split").write_to(model.config)


@torch.no_grad()
def split_weight(weight: Tensor, per_row: bool = False) -> tuple[Tensor, Tensor]:
    r"""The two latent halves of a ternary weight, whose binarizations add up to it.

    With I the kept weights, J the dropped positive and K the other dropped ones, n of them in all:

    * ``w1 = a w, w2 = (1 - a) w`` on I; ``w1 = b + w, w2 = -b`` on J;
      ``w1 = b, w2 = -b + w`` on K;
    * ``a = (S_I + S_K - S_J) / 2 S_I`` and ``b = (n / |I| S_I - S_all) / 2 (|J| + |K|)``,
      S_X the sum of |w| over X.

    Both halves then have the mean magnitude alpha / 2, equal signs on I, opposite signs elsewhere.

    That needs ``0 < a < 1``. Where one weight outweighs many small ones of one sign, the published
    ``a`` is not: it is clamped to [0.01, 0.99], and the halves get a ``b`` each that makes up for
    it, ``b + d`` and ``b - d`` with ``d = (a - clamped a) S_I / (|J| + |K|)``.

    Args:
        weight: latent ternary weight, [rows, columns].
        per_row: whether the ternary scale is per row.

    Returns:
        The halves, each of the shape and the dtype of `weight`.

    Source: BinaryBERT (Bai et al., 2021), section 3.1, eq. 4 to 8.

    Examples:
        >>> from bebert_ray.nn.functions import binarize, ternarize
        >>> weight = torch.tensor([[1.0, -2.0, 0.1, 0.3]])
        >>> first, second = split_weight(weight)
        >>> torch.equal(binarize(first) + binarize(second), ternarize(weight))
        True
    """
    rows = weight.double() if per_row else weight.double().view(1, -1)
    mask = ternary_mask(weight, per_row).view_as(rows)
    alpha = ternary_scale(weight, mask.view_as(weight), per_row).double().view(-1, 1)
    magnitude = rows.abs()
    positive = ~mask & (rows > 0)
    negative = ~mask & (rows <= 0)
    kept_sum = (magnitude * mask).sum(1, keepdim=True)
    kept, count = mask.sum(1, keepdim=True), rows.shape[1]
    a = (
        kept_sum
        + (magnitude * negative).sum(1, keepdim=True)
        - (magnitude * positive).sum(1, keepdim=True)
    ) / (2 * kept_sum)
    dropped = (count - kept).clamp(min=1)
    b = (count / kept.clamp(min=1) * kept_sum - magnitude.sum(1, keepdim=True)) / (2 * dropped)
    a = a.nan_to_num(0.5)  # of a row of zeros
    clamped = a.clamp(LEAST_SHARE, 1 - LEAST_SHARE)
    d = (a - clamped) * kept_sum / dropped  # 0 where nothing is clamped
    a, b1, b2 = clamped, b + d, b - d
    first = torch.where(mask, a * rows, torch.where(positive, b1 + rows, b1))
    second = torch.where(mask, (1 - a) * rows, torch.where(positive, -b2, rows - b2))
    return _with_scale(first, alpha / 2, weight), _with_scale(second, alpha / 2, weight)


def _with_scale(half: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    # Rounding the latents to float32 can move their mean magnitude off alpha / 2 by one last bit.
    # The difference is added to the largest of them, and the split model's weights equal the
    # ternary ones to the last bit.
    half = half.to(weight.dtype)
    missing = scale * half.shape[1] - half.abs().sum(1, keepdim=True, dtype=torch.float64)
    largest = half.abs().argmax(1, keepdim=True)
    value = half.gather(1, largest).double()
    half.scatter_(1, largest, (value + value.sign() * missing).to(half.dtype))
    return half.view_as(weight)
