from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.costs import Cost, Total, costs, total
from bebert_ray.nn.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear
from bebert_ray.nn.narrow import narrow_
from bebert_ray.nn.split import split_, split_weight, ternarize_

HIDDEN, FFN, LAYERS, VOCABULARY = 768, 3072, 12, 30522


def only(layer: nn.Module, tokens: int = 10, float_bits: int = 32) -> Cost:
    (cost,) = costs(layer, tokens, float_bits)
    return cost


def test_layers_by_hand() -> None:
    linear = TernaryLinear(nn.Linear(16, 8), 4)
    weights, rest = 16 * 8, 8 + 1  # bias and step
    assert only(linear) == Cost("", 2, 4, weights + rest, 10 * weights, 32, 4, rest * 4)
    split = SplitLinear(linear, split_weight(linear.weight))
    binary = only(split)
    assert binary == Cost("", 1, 4, 2 * weights + rest, 20 * weights, 2 * 16, 2 * 4, rest * 4)
    assert binary.bit_operations == 20 * weights * 4
    assert binary.flops == 2 * 20 * weights * 4 / 64
    table = TernaryEmbedding(nn.Embedding(10, 16))
    assert only(table) == Cost("", 2, 32, 160, 0, 10 * 4, 10 * 4, 0)
    halves = SplitEmbedding(table, split_weight(table.weight, per_row=True))
    assert only(halves) == Cost("", 1, 32, 320, 0, 2 * 10 * 2, 2 * 10 * 4, 0)
    full = only(nn.Linear(16, 8), float_bits=16)
    assert full == Cost("", 32, 32, weights + 8, 10 * weights, 0, 0, (weights + 8) * 2)
    assert full.flops == 2 * 10 * weights
    assert full.bit_operations == 10 * weights * 32 * 32
    assert only(nn.LayerNorm(16)) == Cost("", 32, 32, 32, 0, 0, 0, 32 * 4)


def test_rows_take_whole_bytes() -> None:
    linear = TernaryLinear(nn.Linear(9, 4), 8)
    assert only(linear).weight_bytes == 4 * 3
    assert only(SplitLinear(linear, split_weight(linear.weight))).weight_bytes == 2 * 4 * 2


def test_sums_over_members() -> None:
    one = Cost("a", 1, 8, 5, 6, 1, 2, 3)
    assert total([one] * 3) == Total(15, 18, 144, 3 * 12 * 8 / 64, 3, 6, 9)
    assert total([one] * 3).bytes == 18
    assert total([]).bytes == 0


def test_nothing_in_a_model_is_left_out(tiny_checkpoint: Path) -> None:
    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, 0.0)
    for change_ in (lambda _: None, lambda m: ternarize_(m, 4), split_):
        change_(model)
        assert total(costs(model)).parameters == sum(p.numel() for p in model.parameters())
    tokens, names = 7, {cost.name: cost for cost in costs(model, 7)}
    assert names["classifier"].macs == 32 * 2
    assert names["bert.pooler.dense"].macs == 2 * 32 * 32
    query = names["bert.encoder.layer.1.attention.self.query"]
    assert (query.macs, query.weight_bits, query.activation_bits) == (tokens * 2 * 32 * 32, 1, 4)
    product = names["bert.encoder.layer.1.attention.self QK"]
    assert (product.macs, product.bit_operations) == (tokens * tokens * 32, tokens**2 * 32 * 16)
    assert names["bert.encoder.layer.1.attention.self PV"].macs == product.macs


def test_values_scaled_token_by_token_are_summed_as_floats(member: Any) -> None:
    bits = {}
    for name, options in {
        "uniform": {"bits": 8},
        "lsq": {"bits": 4},
        "sign": {"bits": 1},
        "elastic": {"bits": 1, "elastic": True},
    }.items():
        products = [each for each in costs(member(**options), 7) if each.name.endswith(" PV")]
        [bits[name]] = {each.bit_operations // each.macs for each in products}
    assert bits == {"uniform": 32 * 8, "lsq": 4 * 4, "sign": 32, "elastic": 1}


def bert_base(bits: int | None = None, width: float = 0.5) -> BertForSequenceClassification:
    """A BERT-base, full or as BinaryBERT has it, shapes only."""
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
        if bits is not None:
            narrow_(model, width)
            ternarize_(model, bits)
            split_(model)
    return model


def test_full_precision_bert_base_as_published() -> None:
    sums = total(costs(bert_base()))
    assert round(sums.bytes / 2**20, 1) == 417.6  # MiB, Bai et al., table 1
    assert sums.flops / 1e9 == pytest.approx(22.5, rel=0.01)  # which counts softmax and the like


def test_binary_bert_base_as_published() -> None:
    a_layer = (4 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN) // 2
    encoder = LAYERS * a_layer + VOCABULARY * HIDDEN
    sums = total(costs(bert_base(4)))
    assert round(2 * encoder / 8e6, 1) == 16.5  # BinaryBERT 1-1-4
    assert sums.weight_bytes == 2 * (encoder + HIDDEN * HIDDEN) // 8  # and its pooler
    linears = LAYERS * 6 + 1
    assert sums.scale_bytes == 2 * 4 * (linears + VOCABULARY)
    assert sums.bytes / 1e6 == pytest.approx(18.8, abs=0.05)  # with all that stays float
    assert sums.flops / 1e9 == pytest.approx(1.5, abs=0.1)
    assert total(costs(bert_base(8))).flops / 1e9 == pytest.approx(3.1, abs=0.1)


def test_floats_of_half_the_width_take_half_the_bytes() -> None:
    wide, narrow = (total(costs(bert_base(8), float_bits=bits)) for bits in (32, 16))
    assert narrow.float_bytes == wide.float_bytes / 2
    assert (narrow.weight_bytes, narrow.scale_bytes) == (wide.weight_bytes, wide.scale_bytes)
    assert narrow.flops == wide.flops
