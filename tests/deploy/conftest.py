from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, BertTokenizer

from bebert_ray.models.bert import find_checkpoint, load_encoder
from bebert_ray.models.binarize import binarize_
from bebert_ray.models.split import split_, ternarize_
from bebert_ray.models.width import narrow_
from bebert_ray.quant.quantizers import calibrate_

Member = Callable[..., BertForSequenceClassification]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three random sentences of 8, 3 and 6 tokens."""
    mask = (torch.arange(8) < torch.tensor([[8], [3], [6]])).long()
    ids = torch.randint(5, 90, mask.shape) * mask
    kinds = (torch.arange(8) > 4).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}


@pytest.fixture
def member(tiny_checkpoint: Path, batch: dict[str, Tensor]) -> Member:
    """Makes a tiny member, as if it were trained: member(seed=0, bits=8, labels=2).

    With 8 and 4 bits of activations its weights are split, with fewer they are not, and other
    options are those of `binarize_`.
    """

    def make(
        seed: int = 0, bits: int = 8, labels: int = 2, **options: bool
    ) -> BertForSequenceClassification:
        torch.manual_seed(seed)
        model = load_encoder(find_checkpoint(str(tiny_checkpoint)), labels, dropout=0.0).eval()
        if bits > 2:
            narrow_(model, 0.5)
            ternarize_(model, bits)
        else:
            binarize_(model, bits, **options)
        calibrate_(model, batch)
        if bits > 2:
            split_(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(tiny_checkpoint)
