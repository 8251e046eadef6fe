"""Optimizers, their rates, and the clipping of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.split import split_, ternarize_
from bebert_ray.training.optimizers import clip_gradients_, linear_schedule, make_optimizers
from bebert_ray.training.settings import FitSettings


class SparseAndDense(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4, sparse=sparse)
        self.linear = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.zeros(2))

    def gradients(self, max_norm: float) -> Iterator[Tensor]:
        ids = torch.tensor([[1, 1, 7], [7, 1, 2]])  # rows that occur more than once
        self.linear(self.table(ids)).square().sum().backward()
        clip_gradients_(self, max_norm)
        return (p.grad.to_dense() for p in self.parameters() if p.grad is not None)


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_sparse_gradients_are_clipped_as_if_they_were_dense(max_norm: float) -> None:
    sparse = list(SparseAndDense(sparse=True).gradients(max_norm))
    reference = SparseAndDense(sparse=False)
    raw = list(reference.gradients(float("inf")))
    norm = torch.cat([grad.flatten() for grad in raw]).norm()
    scale = min(1.0, max_norm / norm.item())
    assert (norm > 1) and len(sparse) == 3
    for ours, theirs in zip(sparse, raw, strict=True):
        torch.testing.assert_close(ours, theirs * scale, rtol=1e-4, atol=1e-7)


def test_schedule_by_hand() -> None:
    factor = linear_schedule(steps=10, warmup=0.2)
    expected = [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    assert [factor(step) for step in range(11)] == pytest.approx(expected)


@given(st.integers(1, 300), st.floats(0, 1))
def test_schedule_climbs_to_one_and_falls(steps: int, warmup: float) -> None:
    factors = np.array([linear_schedule(steps, warmup)(step) for step in range(steps)])
    peak = factors.argmax()
    assert factors[peak] == 1 and (factors > 0).all()
    assert (np.diff(factors[: peak + 1]) > 0).all()
    assert (np.diff(factors[peak:]) <= 0).all()


def test_each_parameter_has_one_optimizer_and_the_right_group(tiny_checkpoint: Any) -> None:
    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, 0.1)
    ternarize_(model, 8)
    split_(model)
    settings = FitSettings(
        epochs=3, learning_rate=0.05, weight_decay=0.3, quantizer_learning_rate=0.2
    )
    dense, sparse = make_optimizers(model, settings)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain, quantizers = (
        [names[id(p)] for p in group["params"]] for group in dense.param_groups
    )
    tables = [names[id(p)] for p in sparse.param_groups[0]["params"]]
    assert sorted(decayed + plain + quantizers + tables) == sorted(names.values())
    assert [g["weight_decay"] for g in dense.param_groups] == [0.3, 0, 0]
    assert [g["lr"] for g in dense.param_groups] == [0.05, 0.05, 0.2]
    assert tables == [f"bert.embeddings.word_embeddings.weight_{i}" for i in (1, 2)]
    assert all(name.endswith("clip") for name in quantizers) and len(quantizers) == 21
    assert all(name.endswith("bias") or "LayerNorm" in name for name in plain)
    assert not any(name.endswith("bias") or "LayerNorm" in name for name in decayed)
