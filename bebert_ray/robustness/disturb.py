"""Disturbed models: noise on what the embeddings give, and errors in the packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bebert_ray.packed.layers import PackedEmbedding, PackedLinear, pack_


@contextmanager
def noisy_embeddings(model: Any, strength: float, seed: int) -> Iterator[None]:
    """Gaussian noise on every word embedding that the model looks up, within the context.

    Args:
        model: one of transformers.
        strength: standard deviation, in units of the root mean square of the embedding.
        seed: of the noise.

    Raises:
        NotImplementedError: the model does not tell which its word embeddings are.
    """
    generator = torch.Generator().manual_seed(seed)

    def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        scale = strength * output.square().mean(-1, keepdim=True).sqrt()
        return output + scale * torch.randn(output.shape, generator=generator).to(output.device)

    hook = model.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def has_bits(model: nn.Module) -> bool:
    """Whether any layer has binary weights."""
    return any(hasattr(module, "binary_weights") for module in model.modules())


@contextmanager
def flipped_bits(model: nn.Module, rate: float, seed: int) -> Iterator[None]:
    """Flip stored signs of all binary weights, word embeddings too, within the context.

    The model is packed, and stays so. Scales and all that is not binary are left alone.

    Args:
        model: a binary BERT.
        rate: probability that a sign flips, each for itself.
        seed: with the same seed, a greater rate flips what a smaller one does, and more.
    """
    pack_(model)
    device = next(model.parameters()).device
    rng = np.random.default_rng(seed)
    tables = [m.bits for m in model.modules() if isinstance(m, PackedLinear | PackedEmbedding)]
    before = [table.signs.clone() for table in tables]
    for table in tables:
        drawn = rng.random((*table.signs.shape, 8), dtype=np.float32) < rate
        errors = torch.from_numpy(np.packbits(drawn, axis=-1)[..., 0])
        table.signs ^= errors.to(device)
    model.to(device)  # packed layers make what they compute with anew
    try:
        yield
    finally:
        for table, signs in zip(tables, before, strict=True):
            table.signs.copy_(signs)
        model.to(device)
