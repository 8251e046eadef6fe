from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from bebert_ray.nn.binary import boolean, center_binarize, elastic, sign, signs_and_scale

Golden = dict[str, np.ndarray]

finite = st.floats(-10, 10, width=32, allow_subnormal=False)
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=finite)
matrices = matrices.map(torch.from_numpy)
parameters = st.floats(-2, 2, width=32).map(torch.tensor)
scales = st.floats(2**-6, 4, width=32).map(torch.tensor)


def leaf(array: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(array).clone().requires_grad_()


def assert_golden(ours: Tensor | None, theirs: np.ndarray) -> None:
    assert ours is not None
    torch.testing.assert_close(ours.detach(), torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


def test_no_golden_case_is_left_out(golden: Golden) -> None:
    cases = {key.split("/")[1] for key in golden if key.startswith("bibert/")}
    assert cases == {"linear", "embedding", "binary_act", "bool_act"}


@pytest.mark.usefixtures("kernels")
def test_linear_agrees_with_the_published_one(golden: Golden) -> None:
    case = {name: golden[f"bibert/linear/{name}"] for name in ("x", "weight", "bias", "grad_out")}
    x, weight, bias = leaf(case["x"]), leaf(case["weight"]), leaf(case["bias"])
    out = torch.nn.functional.linear(sign(x), center_binarize(weight), bias)
    assert_golden(out, golden["bibert/linear/out"])
    out.backward(torch.from_numpy(case["grad_out"]))
    assert_golden(x.grad, golden["bibert/linear/grad_x"])
    assert_golden(weight.grad, golden["bibert/linear/grad_weight"])


@pytest.mark.usefixtures("kernels")
def test_embedding_agrees_with_the_published_one(golden: Golden) -> None:
    weight = leaf(golden["bibert/embedding/weight"])
    ids = torch.from_numpy(golden["bibert/embedding/ids"])
    out = center_binarize(torch.nn.functional.embedding(ids, weight))
    assert_golden(out, golden["bibert/embedding/out"])
    out.backward(torch.from_numpy(golden["bibert/embedding/grad_out"]))
    assert_golden(weight.grad, golden["bibert/embedding/grad_weight"])


@pytest.mark.usefixtures("kernels")
def test_activations_agree_with_the_published_ones(golden: Golden) -> None:
    x = leaf(golden["bibert/bool_act/x"])
    out = boolean(x)
    assert_golden(out, golden["bibert/bool_act/out"])
    out.backward(torch.from_numpy(golden["bibert/bool_act/grad_out"]))
    assert_golden(x.grad, golden["bibert/bool_act/grad_x"])
    # The published scale is that of the tensor: here it is one row.
    x = leaf(golden["bibert/binary_act/x"].ravel())
    out = sign(x, scaled=True)
    assert_golden(out, golden["bibert/binary_act/out"].ravel())
    out.backward(torch.from_numpy(golden["bibert/binary_act/grad_out"].ravel()))
    assert_golden(x.grad, golden["bibert/binary_act/grad_x"].ravel())


@given(matrices, st.booleans())
def test_signs_take_one_bit_a_value_and_one_scale_a_row(x: Tensor, scaled: bool) -> None:
    out = sign(x, scaled)
    expected = x.abs().mean(-1, keepdim=True) if scaled else torch.ones(len(x), 1)
    torch.testing.assert_close(out.abs(), expected.expand_as(x))
    assert torch.equal(out < 0, x.signbit() & (expected > 0))
    assert torch.equal(sign(x[:1], scaled), out[:1]), "a row is its own"


@given(matrices)
def test_binary_weights_are_signs_and_scales(weight: Tensor) -> None:
    signs, scale = signs_and_scale(weight)
    assert signs.dtype == torch.bool
    assert torch.equal(center_binarize(weight), torch.where(signs, scale, -scale))
    torch.testing.assert_close(scale[:, 0], weight.abs().mean(-1))


def test_binary_weights_have_no_mean_and_their_gradient_neither() -> None:
    weight = leaf(0.1 * torch.randn(6, 512) + 0.3)  # all rows lean to one side
    out = center_binarize(weight)
    assert (out / out.abs()).mean(-1).abs().max() < 0.2
    out.backward(torch.randn(6, 512))
    assert weight.grad is not None
    assert weight.grad.mean(-1).abs().max() < 1e-6


def test_weights_far_from_their_mean_have_no_gradient() -> None:
    weight = leaf(torch.tensor([[-3.0, -0.5, 0.5, 3.0]]))
    center_binarize(weight).backward(torch.tensor([[1.0, 1.0, -1.0, 1.0]]))
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, -1.0, 0.0]]


@given(matrices, scales, parameters, st.booleans())
def test_elastic_values_are_those_of_its_set(
    x: Tensor, scale: Tensor, threshold: Tensor, signed: bool
) -> None:
    out = elastic(x, scale, threshold, signed)
    low = -scale if signed else torch.tensor(0.0)
    assert set(out.unique().tolist()) <= {low.item(), scale.item()}
    cut = threshold if signed else threshold + scale / 2
    clear = (x - cut).abs() > 1e-4
    assert torch.equal((out > 0)[clear], (x > cut)[clear])


@pytest.mark.parametrize("signed", [True, False])
def test_elastic_gradients_by_hand(signed: bool) -> None:
    x = leaf(torch.tensor([-3.0, -0.25, 0.5, 1.25, 4.0]))
    scale, threshold = leaf(torch.tensor(2.0)), leaf(torch.tensor(0.25))
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    elastic(x, scale, threshold, signed).backward(grad)
    v = [-1.625, -0.25, 0.125, 0.5, 1.875]
    inside = [0.0, 1, 1, 1, 0] if signed else [0.0, 0, 1, 1, 0]
    assert x.grad is not None and scale.grad is not None and threshold.grad is not None
    assert x.grad.tolist() == (grad * torch.tensor(inside)).tolist()
    # Where unsigned, v of 0.5 rounds to 0.
    by_hand = -1 - 2 + 3 + 4 + 5 if signed else 5 - (v[2] * 3 + v[3] * 4)
    share = 5**-0.5
    assert scale.grad.item() == pytest.approx(by_hand * share)
    assert threshold.grad.item() == pytest.approx(-sum(x.grad.tolist()) * share)


def test_zero_counts_as_positive() -> None:
    zeros = torch.zeros(1, 4)
    assert sign(zeros).tolist() == [[1.0] * 4]
    assert boolean(zeros).tolist() == [[0.0] * 4]
    assert elastic(zeros, torch.tensor(1.0), torch.tensor(0.0), True).tolist() == [[1.0] * 4]
    assert center_binarize(zeros).tolist() == [[0.0] * 4]  # its scale is 0
    assert signs_and_scale(zeros)[0].all()
