from __future__ import annotations

import numpy as np
import pytest
import torch

from bebert_ray.boosting.torch_vote import combine_logits
from bebert_ray.boosting.vote import combine


@pytest.mark.parametrize("alphas", [[1.0, 2.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_logits_combine_as_scores_do(alphas: list[float], labels: int) -> None:
    logits = 5 * torch.randn(3, 6, labels)
    combined = combine_logits(logits, alphas)
    scores = combined if labels == 1 else combined.softmax(-1)
    np.testing.assert_allclose(scores, combine(logits, alphas), atol=2e-6)


def test_one_member_keeps_its_logits() -> None:
    logits = torch.randn(1, 6, 3)
    assert torch.equal(combine_logits(logits, [0.3]), logits[0])


@pytest.mark.parametrize(
    ("alphas", "message"),
    [([1.0], "2 members need"), ([1.0, -1.0], "not negative"), ([1.0, float("nan")], "finite")],
)
def test_alphas_that_do_not_fit_are_refused(alphas: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine_logits(torch.zeros(2, 1, 2), alphas)
