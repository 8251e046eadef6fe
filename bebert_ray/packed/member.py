"""The forward pass of a packed member: that of transformers' BERT, written out.

The modules of transformers give the same bits. But where a batch is one sentence of 32 tokens,
their calls in Python take a sixth of the time. `onnx` has the same pass as a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from bebert_ray.packed.attention import attend


class PackedMember(BertForSequenceClassification):
    """A binary BERT whose layers are packed, see `layers.pack_`. It has no dropout."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Score sentences.

        Args:
            input_ids: [batch, tokens].
            attention_mask: [batch, tokens], 0 for padding; None if there is none.
            token_type_ids: [batch, tokens], 1 for the second text of a pair; None for zeros.

        Returns:
            An output with `logits`, [batch, K].
        """
        bert: Any = self.bert
        padding = None if attention_mask is None else _padding(attention_mask)
        x = bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        for layer in bert.encoder.layer:
            context = _context(layer.attention.self, x, padding)
            x = _norm(layer.attention.output.dense(context) + x, layer.attention.output.LayerNorm)
            hidden = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x))
            x = _norm(layer.output.dense(hidden) + x, layer.output.LayerNorm)
        pooled = bert.pooler.activation(bert.pooler.dense(x[:, 0]))
        return SequenceClassifierOutput(logits=self.classifier(pooled))


def _padding(attention_mask: Tensor) -> Tensor | None:
    """Which tokens are padding, [batch, 1, 1, tokens]; None if none is."""
    if not torch.compiler.is_compiling() and attention_mask.all():
        return None
    return (attention_mask == 0)[:, None, None, :]


def _context(attention: Any, x: Tensor, padding: Tensor | None) -> Tensor:
    """What the heads read, [batch, tokens, heads * head_size]."""
    by_head = (*x.shape[:2], attention.num_attention_heads, attention.attention_head_size)
    query, key, value = (
        project(x).view(by_head).transpose(1, 2)
        for project in (attention.query, attention.key, attention.value)
    )
    parts = attention.quantizers.prepared()
    return attend(parts, query, key, value, padding, attention.scaling).transpose(1, 2).flatten(2)


def _norm(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
