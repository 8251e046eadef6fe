from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from bebert_ray.nn.functions import (
    MIN_STEP,
    binarize,
    lsq,
    lsq_initial_step,
    lsq_range,
    ternarize,
    ternary_mask,
    uniform,
)

Golden = dict[str, np.ndarray]
WEIGHTS = {"bwn": binarize, "twn": ternarize}
GRANULARITY = {"layer": False, "row": True}
SYMMETRY = {"sym": True, "asym": False}
BITS = (8, 4)
CLIP = (-2.5, 2.5)

finite = st.floats(-10, 10, width=32, allow_subnormal=False)
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=finite)
matrices = matrices.map(torch.from_numpy)
weights = matrices.map(lambda w: torch.where(w == 0, 1.0, w))  # a weight of 0 has no sign
bit_widths = st.integers(2, 8)
steps = st.floats(2**-10, 8, width=32).map(torch.tensor)
booleans = st.booleans()


def leaf(array: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()


def assert_golden(ours: Tensor | None, theirs: np.ndarray) -> None:
    assert ours is not None
    torch.testing.assert_close(ours.detach(), torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


def most_values(x: Tensor, per_row: bool) -> int:
    return max(len(row.unique()) for row in (x if per_row else [x]))


# --- the published quantizers -------------------------------------------------------------------


def test_no_golden_case_is_left_out(golden: Golden) -> None:
    cases = {key.rsplit("/", 1)[0] for key in golden if key[:2] in ("w/", "a/")}
    tested = {f"w/{kind}_{rows}" for kind in WEIGHTS for rows in GRANULARITY}
    for bits in BITS:
        tested |= {f"a/{kind}{bits}_{rows}" for kind in SYMMETRY for rows in GRANULARITY}
        tested |= {f"a/{kind}lsq{bits}" for kind in SYMMETRY}
    assert cases == tested | {"w", "a"}  # the inputs


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("rows", GRANULARITY)
@pytest.mark.usefixtures("kernels")
def test_weights_as_published(golden: Golden, kind: str, rows: str) -> None:
    weight = leaf(golden["w/weight"])
    out = WEIGHTS[kind](weight, per_row=GRANULARITY[rows])
    out.backward(torch.from_numpy(golden["w/grad"]))
    assert_golden(out, golden[f"w/{kind}_{rows}/out"])
    assert_golden(weight.grad, golden[f"w/{kind}_{rows}/grad_in"])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", SYMMETRY)
@pytest.mark.parametrize("rows", GRANULARITY)
@pytest.mark.usefixtures("kernels")
def test_uniform_as_published(golden: Golden, kind: str, bits: int, rows: str) -> None:
    x, clip = leaf(golden["a/x"]), leaf(torch.tensor(CLIP))
    out = uniform(x, clip, bits, SYMMETRY[kind], per_row=GRANULARITY[rows])
    out.backward(torch.from_numpy(golden["a/grad"]))
    case = f"a/{kind}{bits}_{rows}"
    assert_golden(out, golden[f"{case}/out"])
    assert_golden(x.grad, golden[f"{case}/grad_in"])
    assert_golden(clip.grad, golden[f"{case}/grad_clip"])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", SYMMETRY)
@pytest.mark.usefixtures("kernels")
def test_lsq_as_published(golden: Golden, kind: str, bits: int) -> None:
    case, symmetric = f"a/{kind}lsq{bits}", SYMMETRY[kind]
    x = leaf(golden[f"{case}/x"])
    step = lsq_initial_step(x, bits, symmetric).requires_grad_()
    assert_golden(step, golden[f"{case}/step_init"])
    offset = None if symmetric else x.detach().min()
    out = lsq(x, step, bits, symmetric, offset)
    out.backward(torch.from_numpy(golden["a/grad"]))
    assert_golden(out, golden[f"{case}/out"])
    assert_golden(x.grad, golden[f"{case}/grad_in"])
    assert_golden(step.grad, golden[f"{case}/grad_step"])


# --- weights ------------------------------------------------------------------------------------


@given(weights, booleans)
def test_binary_weights_take_two_values_and_keep_their_sign(weight: Tensor, per_row: bool) -> None:
    out = binarize(weight, per_row)
    assert most_values(out, per_row) <= 2
    assert torch.equal(out.sign(), weight.sign())


@given(matrices, booleans)
def test_ternary_weights_take_three_values_and_keep_the_large(
    weight: Tensor, per_row: bool
) -> None:
    out = ternarize(weight, per_row)
    assert most_values(out, per_row) <= 3
    assert torch.equal(out.sign(), weight.sign() * ternary_mask(weight, per_row))


def test_ternary_by_hand() -> None:
    # Mean magnitude 2, threshold 1.4; the kept magnitudes are 3, 2 and 2.5.
    weight = torch.tensor([[3.0, -2.0, 1.4], [-1.1, 2.5, -2.0]])
    alpha = (3 + 2 + 2.5 + 2) / 4
    expected = torch.tensor([[alpha, -alpha, 0], [0, alpha, -alpha]])
    assert torch.equal(ternarize(weight), expected)


@given(weights, booleans)
def test_binary_and_ternary_weights_stay_as_they_are(weight: Tensor, per_row: bool) -> None:
    for quantize in (binarize, ternarize):
        out = quantize(weight, per_row)
        assert torch.equal(quantize(out, per_row), out)


@given(matrices, booleans)
def test_the_gradient_of_a_weight_passes_straight_through(weight: Tensor, per_row: bool) -> None:
    grad = torch.randn_like(weight)
    for quantize in (binarize, ternarize):
        latent = leaf(weight)
        quantize(latent, per_row).backward(grad)
        assert latent.grad is not None
        assert torch.equal(latent.grad, grad)


# --- activations --------------------------------------------------------------------------------


@given(matrices, bit_widths, booleans, booleans)
def test_uniform_takes_few_values(x: Tensor, bits: int, symmetric: bool, per_row: bool) -> None:
    out = uniform(x, torch.tensor(CLIP), bits, symmetric, per_row)
    assert most_values(out, per_row) <= 2**bits - symmetric


@given(matrices, bit_widths, booleans)
def test_uniform_is_off_by_half_a_level_at_most(x: Tensor, bits: int, symmetric: bool) -> None:
    clipped = x.clamp(*CLIP)
    out = uniform(x, torch.tensor(CLIP), bits, symmetric)
    if symmetric:
        level = clipped.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    else:
        span = clipped.amax(-1, keepdim=True) - clipped.amin(-1, keepdim=True).clamp(max=0)
        level = span / (2**bits - 1)
    assert ((out - clipped).abs() <= level / 2 + 1e-5).all()


@given(matrices, bit_widths, booleans, booleans)
def test_uniform_values_stay_as_they_are(
    x: Tensor, bits: int, symmetric: bool, per_row: bool
) -> None:
    clip = torch.tensor(CLIP)
    out = uniform(x, clip, bits, symmetric, per_row)
    again = uniform(out, clip, bits, symmetric, per_row)
    torch.testing.assert_close(again, out, rtol=1e-5, atol=1e-6)


@given(matrices, steps, bit_widths, booleans)
def test_lsq_takes_whole_steps_in_its_range(
    x: Tensor, step: Tensor, bits: int, symmetric: bool
) -> None:
    out = lsq(x, step, bits, symmetric)
    lowest, highest = lsq_range(bits, symmetric)
    levels = (out / step).round()
    assert highest - lowest + 1 == 2**bits
    assert torch.equal(levels * step, out)
    assert (levels >= lowest).all() and (levels <= highest).all()
    bounded = x.clamp(lowest * step.item(), highest * step.item())
    assert ((out - bounded).abs() <= step / 2 * (1 + 1e-4)).all()
    assert torch.equal(lsq(out, step, bits, symmetric), out)


@given(matrices, bit_widths)
def test_a_row_does_not_depend_on_the_others(x: Tensor, bits: int) -> None:
    def alone(quantize: Callable[[Tensor], Tensor]) -> bool:
        together = quantize(x)
        return all(torch.equal(quantize(x[i : i + 1])[0], together[i]) for i in range(len(x)))

    clip = torch.tensor(CLIP)
    assert alone(lambda x: uniform(x, clip, bits, symmetric=True))
    assert alone(lambda x: uniform(x, clip, bits, symmetric=False))
    assert alone(lambda x: binarize(x, per_row=True))
    assert alone(lambda x: ternarize(x, per_row=True))


@given(arrays(np.float32, (3, 9), elements=st.floats(0, 1, width=32)), bit_widths)
def test_zeros_beside_probabilities_change_nothing(x: np.ndarray, bits: int) -> None:
    # Padding has probability zero: with or without it, the others must come out the same.
    probs, clip = torch.from_numpy(x), torch.tensor(CLIP)
    padded = torch.nn.functional.pad(probs, (0, 5))
    for quantize in (
        lambda x: uniform(x, clip, bits, symmetric=False),
        lambda x: lsq(x, torch.tensor(0.1), bits, symmetric=False),
    ):
        out = quantize(padded)
        assert torch.equal(out[:, :9], quantize(probs))
        assert not out[:, 9:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_zero_rows_stay_zero(dtype: torch.dtype) -> None:
    x = torch.zeros(3, 8, dtype=dtype)
    x[1] = torch.linspace(-1, 1, 8)
    x[2, 0] = torch.finfo(dtype).tiny
    clip = torch.tensor(CLIP, requires_grad=True)
    step = torch.tensor(0.1, requires_grad=True)
    for bits in BITS:
        for quantize in (
            lambda x, b=bits: uniform(x, clip, b, symmetric=True),
            lambda x, b=bits: uniform(x, clip, b, symmetric=False),
            lambda x, b=bits: lsq(x, step, b, symmetric=True),
            lambda x, b=bits: lsq(x, step, b, symmetric=False),
            lambda x: binarize(x, per_row=True),
            lambda x: ternarize(x, per_row=True),
        ):
            latent = leaf(x)
            out = quantize(latent)
            out.sum().backward()
            assert not out[0].any()
            assert out.isfinite().all()
            assert latent.grad is not None and latent.grad.isfinite().all()
    assert clip.grad is not None and clip.grad.isfinite().all()
    assert step.grad is not None and step.grad.isfinite().all()


def test_the_gradient_of_uniform_goes_to_x_inside_and_to_the_bound_outside() -> None:
    x = leaf(torch.tensor([[-3.0, -1.0, 0.5, 2.0, 5.0]]))
    clip = leaf(torch.tensor([-1.0, 2.0]))
    grad = torch.tensor([[1.0, 10.0, 100.0, 1000.0, 10000.0]])
    uniform(x, clip, 8, symmetric=True).backward(grad)
    assert x.grad is not None and clip.grad is not None
    assert x.grad.tolist() == [[0, 0, 100, 0, 0]]
    assert clip.grad.tolist() == [11, 11000]


@pytest.mark.parametrize("step_size", [1.0, 0.25])
def test_lsq_symmetric_by_hand(step_size: float) -> None:
    v = torch.tensor([-10.0, -0.6, 0.2, 1.4, 9.0])  # levels -2 .. 1
    x, step = leaf(v * step_size), leaf(torch.tensor(step_size))
    out = lsq(x, step, bits=2, symmetric=True)
    out.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad is not None and step.grad is not None
    assert (out / step_size).tolist() == [-2, -1, 0, 1, 1]
    assert x.grad.tolist() == [0, 2, 3, 0, 0]
    by_hand = (1 * -2 + 2 * (-1 + 0.6) + 3 * (0 - 0.2) + 4 * 1 + 5 * 1) / math.sqrt(5 * 1)
    assert step.grad.item() == pytest.approx(by_hand, rel=1e-5)


def test_lsq_asymmetric_by_hand() -> None:
    x, step = leaf(torch.tensor([0.5, 1.7, 2.9, 20.0])), leaf(torch.tensor(2.0))
    out = lsq(x, step, bits=2, symmetric=False, offset=torch.tensor(1.0))
    out.backward(torch.ones(4))
    assert x.grad is not None and step.grad is not None
    # v = -0.25, 0.35, 0.95, 9.5 in levels 0 .. 3
    assert out.tolist() == [1, 1, 3, 7]
    assert x.grad.tolist() == [0, 1, 1, 0]
    by_hand = (0 + (0 - 0.35) + (1 - 0.95) + 3) / math.sqrt(4 * 3)
    assert step.grad.item() == pytest.approx(by_hand, rel=1e-5)


def test_lsq_does_without_a_step_of_zero() -> None:
    for step in (0.0, -1.0):
        out = lsq(torch.tensor([1.0, -1.0]), torch.tensor(step), bits=4, symmetric=True)
        torch.testing.assert_close(out, torch.tensor([7.0, -8.0]) * MIN_STEP)


def test_bfloat16_stays_bfloat16_and_learns_in_float32() -> None:
    x = torch.randn(4, 32).bfloat16()
    clip, step = leaf(torch.tensor(CLIP)), leaf(torch.tensor(0.3))
    for bits in BITS:
        for symmetric in (True, False):
            for quantize in (
                lambda x, b=bits, s=symmetric: uniform(x, clip, b, s),
                lambda x, b=bits, s=symmetric: lsq(x, step, b, s),
                lambda x: binarize(x, per_row=True),
                ternarize,
            ):
                latent = leaf(x)
                out = quantize(latent)
                out.sum().backward()
                assert latent.grad is not None
                assert out.dtype == latent.grad.dtype == torch.bfloat16
                assert most_values(out, per_row=True) <= 2**bits
                # An eighth: a bfloat16 near a boundary falls to the level beside.
                assert (out.float() - quantize(x.float())).abs().mean() < 0.125
    assert clip.grad is not None and clip.grad.dtype == torch.float32
    assert step.grad is not None and step.grad.dtype == torch.float32
