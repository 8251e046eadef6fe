from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.deploy.size import Size, model_size
from bebert_ray.models.split import split_, split_weight, ternarize_
from bebert_ray.models.width import narrow_
from bebert_ray.quant.layers import SplitEmbedding, SplitLinear, TernaryEmbedding, TernaryLinear

HIDDEN, FFN, LAYERS, VOCABULARY = 768, 3072, 12, 30522


def test_layers_by_hand() -> None:
    linear = TernaryLinear(nn.Linear(16, 8), 8)
    floats = (8 + 2) * 32  # bias and clip
    assert model_size(linear) == Size(weights=16 * 8 * 2, scales=32, floats=floats)
    split = SplitLinear(linear, split_weight(linear.weight))
    assert model_size(split) == Size(weights=16 * 8 * 2, scales=2 * 32, floats=floats)
    table = TernaryEmbedding(nn.Embedding(10, 16))
    assert model_size(table) == Size(weights=10 * 16 * 2, scales=10 * 32, floats=0)
    halves = SplitEmbedding(table, split_weight(table.weight, per_row=True))
    assert model_size(halves) == Size(weights=10 * 16 * 2, scales=2 * 10 * 32, floats=0)
    assert model_size(nn.Linear(16, 8)) == Size(weights=0, scales=0, floats=(16 * 8 + 8) * 32)


def test_sums() -> None:
    size = Size(weights=8_000_000, scales=800_000, floats=8_000)
    assert size.bits == 8_808_000
    assert size.megabytes == pytest.approx(1.101)


def test_a_model_is_as_large_as_its_parts(tiny_checkpoint: Path) -> None:
    from bebert_ray.models.bert import find_checkpoint, load_encoder

    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, 0.0)
    count = sum(p.numel() for p in model.parameters())
    assert model_size(model) == Size(0, 0, count * 32)
    ternarize_(model, 4)
    ternary = model_size(model)
    split_(model)
    binary = model_size(model)
    assert binary.weights == ternary.weights
    assert binary.scales == 2 * ternary.scales
    assert binary.floats == ternary.floats


@pytest.fixture(scope="module")
def bert_base() -> BertForSequenceClassification:
    """A BERT-base of half the width, split, as BinaryBERT has it; shapes only."""
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
        narrow_(model, 0.5)
        ternarize_(model, 4)
        split_(model)
    return model


def test_full_precision_bert_base_as_published() -> None:
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    assert round(model_size(model).bits / 8 / 2**20, 1) == 417.6  # MiB, Bai et al., table 1


def test_binary_bert_base_as_published(bert_base: BertForSequenceClassification) -> None:
    a_layer = (4 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN) // 2
    encoder = LAYERS * a_layer + VOCABULARY * HIDDEN
    pooler = HIDDEN * HIDDEN
    size = model_size(bert_base)
    assert size.weights == 2 * (encoder + pooler)
    assert round(2 * encoder / 8e6, 1) == 16.5  # BinaryBERT 1-1-4
    linears = LAYERS * 6 + 1
    assert size.scales == 2 * 32 * (linears + VOCABULARY)
    assert size.megabytes == pytest.approx(18.8, abs=0.05)  # with scales and all that stays float
