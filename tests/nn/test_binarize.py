from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from bebert_ray.nn.binarize import SignedGelu


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
def test_gelu_keeps_the_sign_of_its_input_in_vectors_and_in_their_tails(count: int) -> None:
    assert SignedGelu()(torch.full((count,), -20.0)).signbit().all()


def test_signed_gelu_is_gelu_but_for_the_sign_of_zeros() -> None:
    x = torch.linspace(-30, 30, 60_001).requires_grad_()
    y, plain = SignedGelu()(x), gelu(x)
    assert torch.equal(y, plain)  # 0 equals -0
    assert torch.equal(y.signbit(), x.signbit())
    weight = torch.randn_like(x)
    [ours] = torch.autograd.grad((weight * y).sum(), x)
    [theirs] = torch.autograd.grad((weight * plain).sum(), x)
    assert torch.equal(ours, theirs)
