"""Attention on quantized Q, K, V and probabilities, which hands out its scores for distillation.

Registered with transformers under `ATTENTION`, so that its own BERT calls it; without quantizers on
the module it is plain eager attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from bebert_ray.quant.quantizers import activation_quantizer

ATTENTION = "bebert_scores"


class AttentionQuantizers(nn.Module):
    """The four quantizers of an attention module; probabilities are never negative."""

    def __init__(self, activation_bits: int):
        super().__init__()
        self.query = activation_quantizer(activation_bits)
        self.key = activation_quantizer(activation_bits)
        self.value = activation_quantizer(activation_bits)
        self.probs = activation_quantizer(activation_bits, symmetric=False)


def scores_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """``softmax(Q K^T * scaling + mask) V`` on quantized operands.

    Args:
        module: BERT's self-attention; an attribute `quantizers`, if there, is an
            `AttentionQuantizers`.
        query: [batch, heads, tokens, head_size], as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: additive, [batch, 1, tokens, tokens], or None.
        scaling: 1 / sqrt(head_size).
        dropout: probability of dropping an attention weight.

    Returns:
        The context [batch, tokens, heads, head_size] and the scores before the mask
        [batch, heads, tokens, tokens], which is what BinaryBERT distils.
    """
    quantizers = getattr(module, "quantizers", None)
    if quantizers is not None:
        query, key, value = quantizers.query(query), quantizers.key(key), quantizers.value(value)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    masked = scores if attention_mask is None else scores + attention_mask.to(scores.dtype)
    probs = nn.functional.dropout(masked.softmax(-1), p=dropout, training=module.training)
    if quantizers is not None:
        probs = quantizers.probs(probs)
    context = torch.matmul(probs.to(value.dtype), value)
    return context.transpose(1, 2), scores


AttentionInterface.register(ATTENTION, scores_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
