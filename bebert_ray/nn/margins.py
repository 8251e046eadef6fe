"""How far binary weights are from flipping, and how many have flipped.

A split layer computes with the signs of its latent weights and with their mean magnitude alone. How
large a single latent is says only how much training it takes to flip its sign: its margin. Ternary
weight splitting leaves hardly any latent near zero, so that a member keeps nearly all the bits that
it starts with. New margins change nothing of the function, and let the bits train.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bebert_ray.nn.layers import BinaryEmbedding, SplitEmbedding, SplitLinear

Bits = dict[str, NDArray[np.uint8]]
"""Signs of a model's binary weights by layer, eight a byte."""


def half_normal_magnitudes(count: int, mean: Tensor) -> Tensor:
    """Quantiles of a half-normal distribution, in rising order, whose mean is `mean`.

    ``m_i = c sqrt(2) erfinv((i + 1/2) / count)``, with c such that their mean is as asked for: the
    magnitudes of `count` Gaussian weights, without the noise of a draw.

    Args:
        count: how many.
        mean: their mean, [].

    Returns:
        Float64 [count].

    Examples:
        >>> half_normal_magnitudes(4, torch.tensor(1.0, dtype=torch.float64)).mean().item()
        1.0
    """
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    magnitudes = torch.erfinv(shares)
    return magnitudes * (mean / magnitudes.mean())


@torch.no_grad()
def redraw_margins_(model: nn.Module, seed: int) -> None:
    """Give the latent weights of all split linear layers new magnitudes, in place.

    Each half of a layer keeps its signs and its mean magnitude, and so the layer its function. The
    magnitudes are those of a half-normal distribution of the same mean, in random order: 6 % of the
    weights have a margin below a tenth of the mean, and which these are depends on `seed`.

    Embeddings keep theirs: a batch trains few of their rows, and members can share their bits.

    Args:
        model: with split layers; others are left as they are.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, SplitLinear):
            for half in (module.weight_1, module.weight_2):
                mean = half.abs().mean(dtype=torch.float64).cpu()
                magnitudes = half_normal_magnitudes(half.numel(), mean)
                order = torch.randperm(half.numel(), generator=generator)
                drawn = magnitudes[order].to(half.dtype).view(half.shape)
                drawn = _with_mean(drawn, mean).to(half.device)
                half.copy_(torch.copysign(drawn, half))


def _with_mean(magnitudes: Tensor, mean: Tensor) -> Tensor:
    # Rounding to float32 can move the mean off by a last bit: the largest takes the difference.
    missing = mean * magnitudes.numel() - magnitudes.sum(dtype=torch.float64)
    flat = magnitudes.flatten()
    largest = flat.argmax()
    flat[largest] = (flat[largest].double() + missing).to(flat.dtype)
    return flat.view(magnitudes.shape)


@torch.no_grad()
def bits_of(model: nn.Module) -> Bits:
    """The signs of all binary weights by the name of the layer; both halves of a split one."""
    return {
        name: np.packbits(np.concatenate([signs.cpu().numpy().ravel() for signs, _ in tables]))
        for name, module in model.named_modules()
        if hasattr(module, "binary_weights") and (tables := module.binary_weights())
    }


def is_table(model: nn.Module, name: str) -> bool:
    """Whether a layer looks rows up: a table of embeddings."""
    return isinstance(model.get_submodule(name), SplitEmbedding | BinaryEmbedding)


def differing(one: Bits, other: Bits) -> dict[str, float]:
    """By layer, the share of binary weights whose signs differ.

    Args:
        one: the bits of a model.
        other: those of a model of the same shape.

    Examples:
        >>> ones, zeros = np.array([255], np.uint8), np.array([15], np.uint8)
        >>> differing({"layer": ones}, {"layer": zeros})
        {'layer': 0.5}
    """
    return {
        name: float(np.bitwise_count(bits ^ other[name]).sum(dtype=np.int64)) / (8 * len(bits))
        for name, bits in one.items()
    }


def share_differing(one: Bits, other: Bits) -> float:
    """The share of all binary weights whose signs differ; see `differing`."""
    total = sum(len(bits) for bits in one.values())
    shares = differing(one, other)
    return sum(shares[name] * len(bits) for name, bits in one.items()) / max(1, total)


def encoder_bits(model: nn.Module) -> Bits:
    """As `bits_of`, without the tables of embeddings."""
    return {name: bits for name, bits in bits_of(model).items() if not is_table(model, name)}
