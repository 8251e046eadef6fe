"""Attention of packed models: products of integers, scaled once they are added up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from bebert_ray.packed.integers import Quantizer

PACKED_ATTENTION = "bebert_packed"


class AttentionParts(NamedTuple):
    """The four quantizers of an attention module, and whether it has a softmax."""

    query: Quantizer
    key: Quantizer
    value: Quantizer
    probs: Quantizer
    softmax: bool


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """What `nn.attention.scores_attention` computes, by integers.

    ``Q K^T`` is an integer for each pair of tokens, and so is ``P V`` where all tokens share the
    scale of V. Where each has its own (8 bits, and BiBERT's sign), floats are added.

    Args:
        module: BERT's self-attention, whose `quantizers` are a `layers.PackedQuantizers`.
        query: [batch, heads, tokens, head_size], as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: additive, [batch, 1, tokens, tokens], or None.
        scaling: 1 / sqrt(head_size).
        dropout: not used.

    Returns:
        The context [batch, tokens, heads, head_size], and no scores.
    """
    parts: AttentionParts = module.quantizers.prepared()  # type: ignore[operator, union-attr]
    q, k = parts.query.quantize(query), parts.key.quantize(key)
    sums = torch.matmul(q.levels, k.levels.transpose(2, 3))
    if parts.softmax:
        scores = _scaled(sums, q.scale, k.scale, scaling)
        masked = scores if attention_mask is None else scores.add_(attention_mask)
        p = parts.probs.quantize(masked.softmax(-1))
    else:  # the sign of a score is that of the integer
        p = parts.probs.quantize(sums)
    if attention_mask is not None and parts.probs.highest == 1:
        # Without softmax, or with a threshold below 0, the probability of padding would not be 0.
        p.levels.masked_fill_(attention_mask < 0, 0)
    v = parts.value
    if v.scale is not None and parts.probs.scale is not None:
        context = torch.matmul(p.levels, v.quantize(value).levels).mul_(v.scale * parts.probs.scale)
    else:
        probs = p.levels.mul_(p.scale)
        probs = probs if p.offset is None else probs.add_(p.offset)
        context = torch.matmul(probs, v.values(value))
    return context.transpose(1, 2), None


def _scaled(sums: Tensor, q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """The scores: integers times the scales of their query and key, and the scaling of both."""
    if q.dim() == 0:
        return sums.mul_(q * k * scaling)
    return sums.mul_(q * scaling).mul_(k.transpose(2, 3))


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, eager_mask)
