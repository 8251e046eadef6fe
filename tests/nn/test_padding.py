"""What a model says of a sentence is the sentence's own: no padding, no neighbour has a part in it.

In float64: a last bit of float32, which the shape of a matrix product may change, can carry a value
over the boundary between two levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

Make = Callable[..., BertForSequenceClassification]
LENGTHS = [8, 3, 6, 8]
BIT = {"elastic": True, "softmax": True, "two_sets": True}
MODELS = [
    ("full", 8, {}),
    *(("ternary", 8, {}), ("ternary", 4, {}), ("split", 8, {}), ("split", 4, {})),
    *(("binary", bits, {}) for bits in (8, 4, 2, 1)),
    *(("binary", 1, {option: True}) for option in BIT),
    ("binary", 1, BIT),
]


def sentences() -> dict[str, Tensor]:
    mask = (torch.arange(8) < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(5, 90, mask.shape) * mask
    types = (torch.arange(8) >= 4).long() * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@torch.no_grad()
def logits(model: BertForSequenceClassification, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits


def check(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "bits", "options"), MODELS)
def test_padding_changes_nothing(make: Make, kind: str, bits: int, options: Any) -> None:
    model = make(kind, bits=bits, **options).double()
    batch = sentences()
    expected = logits(model, batch)
    assert expected.std(0).min() > 1e-3
    for more in (1, 8, 40):
        check(logits(model, {k: F.pad(v, (0, more)) for k, v in batch.items()}), expected)
    for i, length in enumerate(LENGTHS):
        bare = {name: tensor[i : i + 1, :length] for name, tensor in batch.items()}
        check(logits(model, bare), expected[i : i + 1])


@pytest.mark.parametrize(("kind", "bits", "options"), MODELS)
def test_neighbours_change_nothing(make: Make, kind: str, bits: int, options: Any) -> None:
    model = make(kind, bits=bits, **options).double()
    batch = sentences()
    expected = logits(model, batch)
    order = torch.tensor([2, 0, 3, 1])
    check(logits(model, {name: tensor[order] for name, tensor in batch.items()}), expected[order])
    others = sentences()
    for i in range(len(LENGTHS)):
        mixed = {name: tensor.clone() for name, tensor in others.items()}
        for name, tensor in batch.items():
            mixed[name][i] = tensor[i]
        check(logits(model, mixed)[i], expected[i])


@pytest.mark.parametrize(("kind", "bits", "options"), MODELS)
def test_what_lies_under_the_padding_changes_nothing(
    make: Make, kind: str, bits: int, options: Any
) -> None:
    model = make(kind, bits=bits, **options).double()
    batch = sentences()
    expected = logits(model, batch)
    rubbish = torch.randint(5, 90, batch["input_ids"].shape)
    batch["input_ids"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], rubbish)
    check(logits(model, batch), expected)
