"""The softmax of packed attention; the rest is compared with the trained model in test_layers."""

from __future__ import annotations

import pytest
import torch

from bebert_ray.packed.attention import _softmax_


@pytest.mark.parametrize("tokens", [1, 7, 8, 15, 16, 33])
def test_softmax_of_few_and_of_many_tokens(tokens: int) -> None:
    scores = 100 * torch.randn(2, 3, tokens, tokens)
    scores[0, ..., tokens // 2 + 1 :] = torch.finfo(torch.float32).min  # padding
    wanted = scores.double().softmax(-1).float()
    found = _softmax_(scores.clone())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert not found[0, ..., tokens // 2 + 1 :].any()
