from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from bebert_ray.nn.bert import copy_of, load_model, save_model, without_dropout
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder

Make = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]
KINDS = [("full", 8, 1.0), ("full", 8, 0.5)] + [
    (kind, bits, width) for kind in ("ternary", "split") for bits in (8, 4) for width in (1.0, 0.5)
]


@torch.no_grad()
def logits(model: BertForSequenceClassification, batch: Batch) -> Tensor:
    return model(**batch).logits


@pytest.mark.parametrize(("kind", "bits", "width"), KINDS)
def test_a_model_comes_back_as_it_was_saved(
    make: Make, batch: Batch, tmp_path: Path, kind: str, bits: int, width: float
) -> None:
    model = make(kind, bits=bits, width=width)
    save_model(model, tmp_path)
    generator = torch.get_rng_state()
    loaded = load_model(tmp_path).eval()
    assert torch.equal(torch.get_rng_state(), generator)  # loading draws nothing
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(("kind", "bits", "width"), KINDS)
def test_a_loaded_model_trains_like_the_saved_one(
    make: Make, batch: Batch, tmp_path: Path, kind: str, bits: int, width: float
) -> None:
    model = make(kind, bits=bits, width=width)
    save_model(model, tmp_path)
    gradients = []
    for each in (model, load_model(tmp_path)):
        each.eval()(**batch).logits.square().sum().backward()
        gradients.append({name: p.grad for name, p in each.named_parameters()})
    for name, theirs in gradients[0].items():
        ours = gradients[1][name]
        assert theirs is not None and ours is not None, name
        assert ours.is_sparse == theirs.is_sparse == ("word_embeddings" in name)
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-6, atol=1e-9)


def test_a_copy_shares_nothing_with_its_model(make: Make, batch: Batch) -> None:
    model = make("split")
    before = logits(model, batch)
    twin = copy_of(model).eval()
    assert torch.equal(logits(twin, batch), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.config.width = 0.1
    assert torch.equal(logits(model, batch), before)
    assert model.config.width == 1.0


def test_dropout_can_be_switched_off_for_good(
    tiny_checkpoint: Path, batch: Batch, tmp_path: Path
) -> None:
    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, dropout=0.5).train()
    assert not torch.equal(logits(model, batch), logits(model, batch))
    without_dropout(model)
    save_model(model, tmp_path)
    for each in (model, load_model(tmp_path).train()):
        assert torch.equal(logits(each, batch), logits(each, batch))
