from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.activations import GELUActivation

from bebert_ray.nn.functions import binarize, ternarize
from bebert_ray.nn.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear
from bebert_ray.nn.quantizers import LsqQuantizer, UniformQuantizer
from bebert_ray.nn.split import split_, split_weight, ternarize_

Make = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "per_row"),
    [
        ("bert.embeddings.word_embeddings", True),
        ("bert.encoder.layer.0.attention.self.query", False),
    ],
)
def test_halves_as_published(golden: dict[str, np.ndarray], name: str, per_row: bool) -> None:
    weight = torch.from_numpy(golden[f"tws/in/{name}.weight"])
    first, second = split_weight(weight, per_row)
    for ours, number in ((first, 1), (second, 2)):
        theirs = torch.from_numpy(golden[f"tws/out/{name}_{number}.weight"])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ternary = ternarize(weight, per_row)
    theirs = torch.from_numpy(golden[f"tws/ternary/{name}.weight"])
    torch.testing.assert_close(ternary, theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(binarize(first, per_row) + binarize(second, per_row), ternary)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(16, 400), st.floats(1e-3, 1e2))
def test_binary_halves_add_up_to_the_ternary_weight(
    seed: int, rows: int, columns: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * scale
    for per_row in (True, False):
        first, second = split_weight(weight, per_row)
        together = binarize(first, per_row) + binarize(second, per_row)
        assert torch.equal(together, ternarize(weight, per_row))
        # The latents themselves add up as well, but for the correction of the last bit.
        torch.testing.assert_close(first + second, weight, rtol=0, atol=1e-5 * scale * columns)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("outlier", [3.0, -3.0])
def test_an_outlier_among_small_weights_of_one_sign(sign: float, outlier: float) -> None:
    weight = torch.full((1, 384), sign * 0.015)
    weight[0, 7] = outlier
    for per_row in (True, False):
        first, second = split_weight(weight, per_row)
        together = binarize(first, per_row) + binarize(second, per_row)
        assert torch.equal(together, ternarize(weight, per_row))


def test_rows_of_zeros_and_of_equal_weights() -> None:
    weight = torch.stack([torch.zeros(16), torch.ones(16), -torch.ones(16)])
    first, second = split_weight(weight, per_row=True)
    together = binarize(first, per_row=True) + binarize(second, per_row=True)
    assert torch.equal(together, weight)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_splitting_keeps_every_bit_of_the_logits(
    make: Make, batch: Batch, seed: int, bits: int, width: float
) -> None:
    model = make("ternary", bits=bits, width=width, seed=seed)
    with torch.no_grad():
        ternary = model(**batch, output_hidden_states=True)
        split_(model)
        binary = model(**batch, output_hidden_states=True)
    assert torch.equal(binary.logits, ternary.logits)
    assert all(map(torch.equal, binary.hidden_states, ternary.hidden_states))
    assert ternary.logits.std() > 1e-3
    assert model.config.weights == "split"


@pytest.mark.parametrize(("bits", "quantizer"), [(8, UniformQuantizer), (4, LsqQuantizer)])
def test_what_is_quantized_and_what_is_not(
    make: Make, bits: int, quantizer: type[nn.Module]
) -> None:
    model = make()
    ternarize_(model, bits)
    linears = 2 * 6 + 1  # six a layer, and the pooler
    assert count(model, TernaryLinear) == linears
    assert count(model, TernaryEmbedding) == 1
    assert count(model, quantizer) == linears + 2 * 4  # and Q, K, V, probabilities
    assert count(model, UniformQuantizer) + count(model, LsqQuantizer) == linears + 8
    assert count(model, nn.Linear) == 1  # the classifier
    assert count(model, nn.Embedding) == 2  # positions and token types
    for layer in model.bert.encoder.layer:
        layer: Any
        assert not layer.attention.self.quantizers.probs.symmetric
        assert not layer.output.dense.input_quantizer.symmetric
        assert layer.intermediate.dense.input_quantizer.symmetric
        activation = layer.intermediate.intermediate_act_fn
        assert isinstance(activation, GELUActivation if bits == 8 else nn.ReLU)
    assert (model.config.weights, model.config.activation_bits) == ("ternary", bits)
    split_(model)
    assert (count(model, SplitLinear), count(model, SplitEmbedding)) == (linears, 1)
    assert count(model, TernaryLinear) == count(model, TernaryEmbedding) == 0


def test_calibration_reaches_every_step_of_a_bert(make: Make) -> None:
    model = make("ternary", bits=4)
    found = {
        name: module for name, module in model.named_modules() if isinstance(module, LsqQuantizer)
    }
    assert len(found) == 21
    assert [name for name, module in found.items() if module.step.item() == 1] == []
    assert not any(module._forward_pre_hooks for module in model.modules())
