from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bebert_ray.nn.functions import ternarize
from bebert_ray.nn.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear
from bebert_ray.nn.split import split_weight


def split_linear(ternary: TernaryLinear) -> SplitLinear:
    return SplitLinear(ternary, split_weight(ternary.weight))


def split_embedding(ternary: TernaryEmbedding) -> SplitEmbedding:
    return SplitEmbedding(ternary, split_weight(ternary.weight, per_row=True))


@pytest.mark.parametrize("bits", [8, 4])
def test_ternary_linear_quantizes_input_and_weight(bits: int) -> None:
    linear, x = nn.Linear(16, 8), torch.randn(2, 3, 16)
    layer = TernaryLinear(linear, bits)
    expected = F.linear(layer.input_quantizer(x), ternarize(linear.weight), linear.bias)
    assert torch.equal(layer(x), expected)
    assert not torch.allclose(layer(x), linear(x))
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("bits", [8, 4])
def test_split_linear_computes_what_the_ternary_one_does(bits: int) -> None:
    ternary, x = TernaryLinear(nn.Linear(16, 8), bits), torch.randn(2, 3, 16)
    split = split_linear(ternary)
    assert torch.equal(split(x), ternary(x))
    assert split.bias is ternary.bias
    assert split.input_quantizer is ternary.input_quantizer
    split(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in split.parameters())
    assert split.weight_1.grad is not None and split.weight_2.grad is not None
    assert torch.equal(split.weight_1.grad, split.weight_2.grad)  # straight through, both


def test_embeddings_quantize_the_rows_that_are_looked_up() -> None:
    table = nn.Embedding(20, 16, padding_idx=0)
    ids = torch.tensor([[3, 7, 3], [19, 0, 0]])
    ternary = TernaryEmbedding(table)
    expected = ternarize(table.weight, per_row=True)[ids]
    assert torch.equal(ternary(ids), expected)
    assert not ternary(ids)[1, 1:].any()  # the padding row is zero and stays so
    split = split_embedding(ternary)
    assert torch.equal(split(ids), expected)


def test_embedding_gradients_are_sparse_and_touch_only_the_tokens() -> None:
    ternary = TernaryEmbedding(nn.Embedding(20, 16, padding_idx=0))
    for layer in (ternary, split_embedding(ternary)):
        layer(torch.tensor([3, 7, 3, 0])).sum().backward()
        for parameter in layer.parameters():
            assert parameter.grad is not None and parameter.grad.is_sparse
            rows = parameter.grad.to_dense().abs().sum(1).nonzero().flatten()
            assert rows.tolist() == [3, 7]
