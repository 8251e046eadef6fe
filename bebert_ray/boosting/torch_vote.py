"""The vote on tensors of logits: `vote.combine` in torch, for packed models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from bebert_ray.boosting.vote import shares


def combine_logits(logits: Tensor, alphas: Sequence[float]) -> Tensor:
    """The logits of an ensemble, whose softmax is what `vote.combine` gives.

    With s = `vote.shares(alphas)`:

    * classification, K >= 2: ``log sum_m s[m] softmax(logits[m])``;
    * regression, K = 1: ``sum_m s[m] logits[m]``;
    * one member: its own logits.

    The alphas are Python floats: the vote is part of the program, so that `torch.export` can trace
    it.

    Args:
        logits: [M, batch, K].
        alphas: weights of the members, [M], >= 0.

    Returns:
        [batch, K].

    Raises:
        ValueError: as in `vote.shares`, or the number of alphas is not M.

    Examples:
        >>> import torch
        >>> combine_logits(torch.tensor([[[1.0]], [[4.0]]]), [1.0, 2.0])
        tensor([[3.]])
    """
    if len(alphas) != len(logits):
        raise ValueError(f"{len(logits)} members need as many alphas, not {len(alphas)}")
    share = shares(alphas)
    if len(logits) == 1:
        return logits[0]
    if logits.shape[-1] == 1:
        return (logits.new_tensor(share.tolist())[:, None, None] * logits).sum(0)
    return (logits.log_softmax(-1) + logits.new_tensor(log_shares(share))[:, None, None]).logsumexp(
        0
    )


def log_shares(share: np.ndarray) -> list[float]:
    """The logarithms of fractions of the vote; of 0 it is -infinity.

    Examples:
        >>> log_shares(np.array([1.0, 0.0]))
        [0.0, -inf]
    """
    with np.errstate(divide="ignore"):
        values: list[float] = np.log(share).tolist()
    return values
