"""Sums of integers are exact, whatever multiplies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.packed import engines
from bebert_ray.packed.engines import engine, product

RANGES = [(-127, 127), (-128, 127), (0, 255), (-8, 7), (0, 15), (-2, 1), (0, 3), (-1, 1), (0, 1)]


@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(1, 70),
    st.sampled_from(RANGES),
    st.integers(0, 2**32 - 1),
)
def test_all_engines_give_the_same_integers(
    tokens: int, columns: int, rows: int, ends: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    levels = torch.randint(ends[0], ends[1] + 1, (tokens, columns))
    levels[0] = ends[seed % 2]  # the largest sums
    signs = torch.randint(0, 2, (rows, columns), dtype=torch.int8) * 2 - 1
    signs[0] = 1
    expected = levels @ signs.long().T
    for name in ("fp32", engine()):
        sums = engines._ENGINES[name](signs, torch.ones(rows), *ends)(levels.float())
        assert sums.dtype == torch.float32
        assert torch.equal(sums.long(), expected), name
        scales = torch.rand(rows)
        scaled = engines._ENGINES[name](signs, scales, *ends)(levels.float())
        assert torch.equal(scaled, expected.float() * scales), name


def test_leading_axes_and_views_are_kept() -> None:
    signs = torch.randint(0, 2, (6, 16), dtype=torch.int8) * 2 - 1
    levels = torch.randint(-8, 8, (2, 16, 5)).float().transpose(1, 2)
    sums = product(signs, torch.ones(6), -8, 7)(levels.clone(memory_format=torch.preserve_format))
    assert torch.equal(sums, levels @ signs.float().T)
    assert sums.shape == (2, 5, 6)


def test_wide_activations_are_multiplied_as_floats() -> None:
    signs = torch.ones(1, 4, dtype=torch.int8)
    assert product(signs, torch.ones(1), -32767, 32767)(torch.full((1, 4), 32767.0)) == 4 * 32767


def test_an_engine_that_is_missing_or_not_exact_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def saturated(*_: object) -> object:
        return lambda levels: torch.full((4, 16), 32767.0)

    def missing(*_: object) -> object:
        raise AttributeError("no such operator")

    for broken in (saturated, missing):
        monkeypatch.setitem(engines._ENGINES, "onednn", broken)
        engine.cache_clear()
        assert engine() == "fp32"
    engine.cache_clear()


@pytest.mark.gpu
def test_sums_on_a_gpu_are_exact() -> None:
    signs = torch.ones(16, 4096, dtype=torch.int8, device="cuda")
    levels = torch.full((32, 4096), 255.0, device="cuda")
    assert engine("cuda") == "bf16"
    assert (product(signs, torch.ones(16, device="cuda"), 0, 255)(levels) == 255 * 4096).all()
