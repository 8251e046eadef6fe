from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from bebert_ray.nn.costs import costs, total
from bebert_ray.nn.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear
from bebert_ray.nn.split import split_weight
from bebert_ray.packed.layers import PackedEmbedding, PackedLinear, pack, pack_, unpack

Member = Callable[..., BertForSequenceClassification]


def split_linear(columns: int, rows: int, bits: int = 8) -> SplitLinear:
    ternary = TernaryLinear(nn.Linear(columns, rows), bits)
    return SplitLinear(ternary, split_weight(ternary.weight))


def split_embedding(rows: int, columns: int) -> SplitEmbedding:
    ternary = TernaryEmbedding(nn.Embedding(rows, columns, padding_idx=0))
    return SplitEmbedding(ternary, split_weight(ternary.weight, per_row=True))


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_bits_are_those_of_numpy_and_come_back(rows: int, columns: int, seed: int) -> None:
    signs = np.random.default_rng(seed).random((rows, columns)) < 0.5
    bits = pack(torch.from_numpy(signs))
    assert bits.dtype == torch.uint8
    np.testing.assert_array_equal(bits, np.packbits(signs, axis=-1))
    np.testing.assert_array_equal(unpack(bits, columns), np.where(signs, 1.0, -1.0))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("columns", [16, 13])
def test_a_packed_linear_computes_the_same_but_for_rounding(columns: int, bits: int) -> None:
    layer, x = split_linear(columns, 8, bits), torch.randn(2, 3, columns)
    packed = PackedLinear(layer)
    torch.testing.assert_close(packed(x), layer(x), atol=1e-6, rtol=1e-6)
    assert torch.equal(PackedLinear(packed)(x), packed(x))


@pytest.mark.parametrize("columns", [16, 13])
def test_a_packed_embedding_gives_the_same_rows(columns: int) -> None:
    layer, ids = split_embedding(20, columns), torch.tensor([[3, 7, 3], [19, 0, 0]])
    packed = PackedEmbedding(layer)
    assert torch.equal(packed(ids), layer(ids))
    assert torch.equal(PackedEmbedding(packed)(ids), layer(ids))
    assert packed(ids).shape == (2, 3, columns)


def test_a_latent_of_zero_counts_as_positive_on_both_sides() -> None:
    layer, x = split_linear(16, 8), torch.randn(3, 16)
    with torch.no_grad():
        layer.weight_1[0, :5] = 0.0
        layer.weight_2[3] = -0.0
    torch.testing.assert_close(PackedLinear(layer)(x), layer(x), atol=1e-6, rtol=1e-6)


def test_an_embedding_unpacks_no_more_than_the_rows_looked_up() -> None:
    packed = PackedEmbedding(split_embedding(1000, 16))
    seen: list[torch.Size] = []
    unpacked = torch.nn.functional.embedding

    def embedding(ids: Tensor, *arguments: Tensor) -> Tensor:
        seen.append(ids.shape)
        return unpacked(ids, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "embedding", embedding)
        packed(torch.tensor([1, 2, 3]))
    assert seen == [(2, 3, 2)]


def test_the_buffers_hold_a_bit_a_weight() -> None:
    packed = PackedLinear(split_linear(16, 8))
    sizes = {name: (b.dtype, tuple(b.shape)) for name, b in packed.named_buffers()}
    assert sizes == {
        "bits.signs": (torch.uint8, (2, 8, 2)),
        "bits.scales": (torch.float32, (2, 1, 1)),
    }
    assert {name for name, _ in packed.named_parameters()} == {"bias", "input_quantizer.clip"}


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@torch.no_grad()
def test_a_packed_model_computes_and_costs_the_same(
    member: Member, batch: dict[str, Tensor], bits: int
) -> None:
    model = member(bits=bits)
    expected, counted = model(**batch).logits, costs(model)
    pack_(model)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)
    assert costs(model) == counted
    held = sum(b.nbytes for name, b in model.named_buffers() if "bits." in name)
    sums = total(counted)
    assert held == sums.weight_bytes + sums.scale_bytes
