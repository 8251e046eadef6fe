from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from bebert_ray.nn import compiled
from bebert_ray.nn.binarize import binarize_
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.narrow import Importance, narrow_
from bebert_ray.nn.quantizers import calibrate_
from bebert_ray.nn.split import split_, ternarize_

Make = Callable[..., BertForSequenceClassification]


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three random sentences of 8, 3 and 6 tokens."""
    mask = (torch.arange(8) < torch.tensor([[8], [3], [6]])).long()
    ids = torch.randint(5, 90, mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@pytest.fixture
def ranks() -> Importance:
    """A random importance of the 4 heads and 64 neurons of both layers."""
    return Importance([torch.rand(4) for _ in range(2)], [torch.rand(64) for _ in range(2)])


@pytest.fixture
def make(tiny_checkpoint: Path, batch: dict[str, Tensor], ranks: Importance) -> Make:
    """Makes a tiny model: make("full" | "ternary" | "split" | "binary", bits=..., width=...)."""

    def make(
        kind: str = "full", bits: int = 8, width: float = 1.0, seed: int = 0, **options: bool
    ) -> BertForSequenceClassification:
        torch.manual_seed(seed)
        model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 3, dropout=0.0).eval()
        with torch.no_grad():  # fresh biases are zero and hide mistakes
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        if width < 1:
            narrow_(model, width, ranks)
        if kind == "binary":
            binarize_(model, bits, **options)
        elif kind != "full":
            ternarize_(model, bits)
        calibrate_(model, batch)
        if kind == "split":
            split_(model)
        return model

    return make


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has functions compiled; skips the test where there is no compiler."""
    monkeypatch.delenv("CXX")
    if compiled.find_compiler() is None:
        pytest.skip("no C++ compiler")
    if sys.platform == "linux":  # read when inductor is imported, which may have been before
        import_module("torch._inductor.config").cpp.cxx = (None, "g++")
    compiled.use_compiler_(True)
    yield
    compiled.use_compiler_(False)


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions as they are and compiled, small inputs as well."""
    if request.param == "compiled":
        request.getfixturevalue("compiler")
        monkeypatch.setattr(compiled, "SMALLEST", 0)
