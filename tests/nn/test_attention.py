from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.models.bert.modeling_bert import eager_attention_forward

from bebert_ray.nn.attention import ATTENTION, AttentionQuantizers, scores_attention

SCALING = 0.35


def operands() -> tuple[torch.Tensor, ...]:
    query, key, value = (torch.randn(2, 4, 5, 8) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, :, :, 3:] = torch.finfo(torch.float32).min
    return query, key, value, mask


@pytest.mark.parametrize("masked", [True, False])
def test_without_quantizers_it_is_the_eager_attention_of_transformers(masked: bool) -> None:
    query, key, value, mask = operands()
    given = (nn.Module().eval(), query, key, value, mask if masked else None)
    theirs, probs = eager_attention_forward(*given, scaling=SCALING)
    ours, scores = scores_attention(*given, scaling=SCALING)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores, query @ key.transpose(2, 3) * SCALING)
    if masked:
        scores = scores + mask
    torch.testing.assert_close(scores.softmax(-1), probs)


def test_bert_computes_the_same_with_it(tiny_config: BertConfig) -> None:
    batch = {
        "input_ids": torch.randint(5, 90, (3, 9)),
        "attention_mask": torch.ones(3, 9, dtype=torch.long),
    }
    batch["attention_mask"][0, 4:] = 0
    eager, ours = (
        BertForSequenceClassification._from_config(tiny_config, attn_implementation=name).eval()
        for name in ("eager", ATTENTION)
    )
    ours.load_state_dict(eager.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            ours(**batch).logits, eager(**batch).logits, rtol=1e-5, atol=1e-6
        )
        scores = ours(**batch, output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in scores] == [(3, 4, 9, 9)] * 2
    assert any((layer.sum(-1) - 1).abs().max() > 0.01 for layer in scores)  # no probabilities


@pytest.mark.parametrize("bits", [8, 4])
def test_all_four_operands_are_quantized(bits: int) -> None:
    query, key, value, mask = operands()
    module: Any = nn.Module().eval()
    module.quantizers = AttentionQuantizers(bits)
    q = module.quantizers
    context, scores = scores_attention(module, query, key, value, mask, SCALING)
    expected = q.query(query) @ q.key(key).transpose(2, 3) * SCALING
    probs = q.probs((expected + mask).softmax(-1))
    assert torch.equal(scores, expected)
    assert torch.equal(context, (probs @ q.value(value)).transpose(1, 2))
    assert not probs[1, ..., 3:].any()  # what the mask hides stays out
    plain, _ = scores_attention(nn.Module().eval(), query, key, value, mask, SCALING)
    assert not torch.allclose(context, plain)


def test_dropout_only_in_training() -> None:
    query, key, value, mask = operands()
    module = nn.Module()
    quiet, _ = scores_attention(module.eval(), query, key, value, mask, SCALING, dropout=0.5)
    loud, _ = scores_attention(module.train(), query, key, value, mask, SCALING, dropout=0.5)
    plain, _ = scores_attention(module, query, key, value, mask, SCALING)
    assert torch.equal(quiet, plain)
    assert not torch.allclose(loud, plain)
