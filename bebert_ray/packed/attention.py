"""Attention of packed models: products of integers, scaled once they are added up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bebert_ray.packed.integers import Quantizer

_VECTOR = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
"""Numbers that one instruction takes; where an axis has fewer, torch's softmax does without."""


class AttentionParts(NamedTuple):
    """The four quantizers of an attention module, and whether it has a softmax."""

    query: Quantizer
    key: Quantizer
    value: Quantizer
    probs: Quantizer
    softmax: bool


def attend(
    parts: AttentionParts,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    scaling: float,
) -> Tensor:
    """What `nn.attention.scores_attention` computes, by integers.

    ``Q K^T`` is an integer for each pair of tokens, and so is ``P V`` where all tokens share the
    scale of V. Where each has its own (8 bits, and BiBERT's sign), floats are added.

    Args:
        parts: the quantizers.
        query: [batch, heads, tokens, head_size], as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        padding: which tokens are padding, [batch, 1, 1, tokens]; None if none is.
        scaling: 1 / sqrt(head_size).

    Returns:
        The context [batch, heads, tokens, head_size].
    """
    q, k = parts.query.quantize(query), parts.key.quantize(key)
    sums = torch.matmul(q.levels, k.levels.transpose(2, 3))
    if parts.softmax:
        scores = _scaled(sums, q.scale, k.scale, scaling)
        if padding is not None:
            scores.masked_fill_(padding, torch.finfo(scores.dtype).min)
        p = parts.probs.quantize(_softmax_(scores))
    else:  # the sign of a score is that of the integer
        p = parts.probs.quantize(sums)
    if padding is not None and parts.probs.highest == 1:
        # Without softmax, or with a threshold below 0, the probability of padding would not be 0.
        p.levels.masked_fill_(padding, 0)
    v = parts.value
    if v.scale is not None and parts.probs.scale is not None:
        sums = torch.matmul(p.levels, v.quantize(value).levels)
        return sums.mul_(v.scale * parts.probs.scale)
    probs = p.levels.mul_(p.scale)
    probs = probs if p.offset is None else probs.add_(p.offset)
    return torch.matmul(probs, v.values(value))


def _softmax_(scores: Tensor) -> Tensor:
    """The softmax over the last axis; it may change its argument."""
    if scores.shape[-1] >= _VECTOR or not scores.is_cpu:
        return scores.softmax(-1)
    # torch takes number by number here, and seven times as long.
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(-1, keepdim=True))


def _scaled(sums: Tensor, q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """The scores: integers times the scales of their query and key, and the scaling of both."""
    if q.dim() == 0:
        return sums.mul_(q * k * scaling)
    return sums.mul_(q * scaling).mul_(k.transpose(2, 3))
