"""Attention on quantized Q, K, V and probabilities, which returns its scores for distillation.

It is registered with transformers under `ATTENTION`, and transformers' own BERT calls it. For a
module without quantizers it is plain eager attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from bebert_ray.nn.quantizers import BooleanQuantizer, SignQuantizer, activation_quantizer

ATTENTION = "bebert_scores"


class AttentionQuantizers(nn.Module):
    """The four quantizers of an attention module, and whether there is a softmax before the last.

    Args:
        activation_bits: width of every operand; probabilities are never negative.
        elastic: of one bit, see `activation_quantizer`.
        softmax: False for the Bi-Attention of BiBERT (Qin et al., 2022, section 3.3): the scores
            themselves are binarized to {0, 1}, and a value counts fully or not at all.
    """

    def __init__(self, activation_bits: int, elastic: bool = True, softmax: bool = True):
        super().__init__()

        def operand() -> nn.Module:
            if activation_bits == 1 and not elastic:
                return SignQuantizer(scaled=True)
            return activation_quantizer(activation_bits)

        self.query, self.key, self.value = operand(), operand(), operand()
        self.softmax = softmax
        self.probs = (
            activation_quantizer(activation_bits, symmetric=False)
            if softmax
            else BooleanQuantizer()
        )


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
    """``softmax(Q K^T * scaling + mask) V`` on quantized operands; Bi-Attention has no softmax.

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
    if quantizers is not None and not quantizers.softmax:
        probs = quantizers.probs(scores, _agreement(query, key) > 0)
        probs = nn.functional.dropout(probs, p=dropout, training=module.training)
    else:
        masked = scores if attention_mask is None else scores + attention_mask.to(scores.dtype)
        probs = nn.functional.dropout(masked.softmax(-1), p=dropout, training=module.training)
        if quantizers is not None:
            probs = quantizers.probs(probs)
    if attention_mask is not None and quantizers is not None and quantizers.probs.bits == 1:
        # Without softmax, or with a threshold below 0, the probability of padding would not be 0.
        probs = probs.masked_fill(attention_mask < 0, 0)
    context = torch.matmul(probs.to(value.dtype), value)
    return context.transpose(1, 2), scores


@torch.no_grad()
def _agreement(query: Tensor, key: Tensor) -> Tensor:
    # Of one-bit queries and keys: the number of equal signs less the number of different ones. This
    # is an integer: ties, which are common, do not depend on the order of the sum.
    return torch.matmul(query.sign(), key.sign().transpose(2, 3))


AttentionInterface.register(ATTENTION, scores_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
