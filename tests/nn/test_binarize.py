from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.nn.binarize import SignedGelu, binarize_


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
def test_gelu_keeps_the_sign_of_its_input_in_vectors_and_in_their_tails(count: int) -> None:
    assert SignedGelu()(torch.full((count,), -20.0)).signbit().all()


def test_signed_gelu_is_gelu_but_for_the_sign_of_zeros() -> None:
    x = torch.linspace(-30, 30, 60_001).requires_grad_()
    y, plain = SignedGelu()(x), gelu(x)
    assert torch.equal(y, plain)  # 0 equals -0
    assert torch.equal(y.signbit(), x.signbit())
    weight = torch.randn_like(x)
    [ours] = torch.autograd.grad((weight * y).sum(), x)
    [theirs] = torch.autograd.grad((weight * plain).sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_one_bit_tells_what_the_ffn_puts_out(activation: str) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_act=activation,
    )
    model = BertForSequenceClassification(config).eval()
    binarize_(model, activation_bits=1)
    seen = []
    dense = model.bert.encoder.layer[0].output.dense
    dense.input_quantizer.register_forward_hook(lambda _, __, bits: seen.append(bits))
    model(input_ids=torch.randint(0, 50, (4, 12)))
    [bits] = seen
    assert len(bits.unique()) == 2
    assert 0.2 < (bits == bits.max()).float().mean() < 0.8
