"""Activations as integers times a scale: what the quantizers of a packed model compute.

The parameters of a packed model do not change. So what follows from them alone is computed once,
by `quantizer`; the function that it returns is called for each batch. The ONNX export has the same
operators in the same order, see `onnx_quantizers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bebert_ray.nn.functions import MIN_STEP, lsq_range
from bebert_ray.nn.quantizers import (
    BooleanQuantizer,
    ElasticQuantizer,
    LsqQuantizer,
    SignQuantizer,
    UniformQuantizer,
)


class Integers(NamedTuple):
    """Values of an activation: ``levels * scale + offset``.

    Attributes:
        levels: float32 [..., features], whole numbers.
        scale: of each token, float32 [..., 1], or of all, [].
        offset: of each token, float32 [..., 1]; None for 0.
    """

    levels: Tensor
    scale: Tensor
    offset: Tensor | None = None


class Quantizer(NamedTuple):
    """A quantizer with its parameters.

    Attributes:
        quantize: from values [..., features] to `Integers`; does not change its argument.
        lowest: the lowest level.
        highest: the highest level.
        scale: of all values, float32 []; None if each token has its own.
    """

    quantize: Callable[[Tensor], Integers]
    lowest: int
    highest: int
    scale: Tensor | None

    def values(self, x: Tensor) -> Tensor:
        """The quantized values as floats."""
        levels, scale, offset = self.quantize(x)
        scaled = levels * scale
        return scaled if offset is None else scaled.add_(offset)


def quantizer(module: nn.Module) -> Quantizer:
    """The quantizer of a packed model that has the parameters of a trained one.

    Its levels are those of the trained quantizer, but where rounding decides: a step of LSQ and the
    span of a uniform quantizer divide there, and their reciprocals multiply here. A product with
    a constant is rounded alike by all engines, and is faster.

    Args:
        module: a quantizer of `nn.quantizers`.

    Examples:
        >>> four = LsqQuantizer(bits=4)
        >>> _ = four.step.data.fill_(0.5)
        >>> made = quantizer(four)
        >>> made.quantize(torch.tensor([0.7, -0.2, 9.0])).levels, made.scale
        (tensor([1., -0., 7.]), tensor(0.5000))
    """
    with torch.no_grad(), torch.inference_mode(False):
        return _QUANTIZERS[type(module)](module)


def _uniform(module: Any) -> Quantizer:
    low, high = module.clip.tolist()
    if module.symmetric:
        most = 2 ** (module.bits - 1) - 1
        least = most * torch.finfo(torch.float32).tiny

        def symmetric(x: Tensor) -> Integers:
            clipped = x.clamp(low, high)
            top = clipped.abs().amax(-1, keepdim=True).clamp_(min=least)
            return Integers(clipped.mul_(most / top).round_(), top / most)

        return Quantizer(symmetric, -most, most, None)
    most = 2**module.bits - 1

    def asymmetric(x: Tensor) -> Integers:
        clipped = x.clamp(low, high)
        # Zero belongs to the range; see `nn.functions.uniform`.
        bottom = clipped.amin(-1, keepdim=True).clamp_(max=0)
        span = clipped.amax(-1, keepdim=True).sub_(bottom).add_(1e-8)
        return Integers(clipped.sub_(bottom).mul_(most / span).round_(), span / most, bottom)

    return Quantizer(asymmetric, 0, most, None)


def _lsq(module: Any) -> Quantizer:
    lowest, highest = lsq_range(module.bits, module.symmetric)
    step = module.step.detach().clamp(min=MIN_STEP)
    inverse = step.reciprocal()  # a tensor: torch converts a number at each call

    def quantize(x: Tensor) -> Integers:
        return Integers(x.mul(inverse).round_().clamp_(lowest, highest), step)

    return Quantizer(quantize, lowest, highest, step)


def _sign(module: Any) -> Quantizer:
    def scaled(x: Tensor) -> Integers:
        mean = x.abs().mean(-1, keepdim=True, dtype=torch.float64).float()
        return Integers(_signs(x), mean)

    if module.scaled:
        return Quantizer(scaled, -1, 1, None)
    one = torch.tensor(1.0)
    return Quantizer(lambda x: Integers(_signs(x), one), -1, 1, one)


def _boolean(module: Any) -> Quantizer:
    one = torch.tensor(1.0)
    return Quantizer(lambda x: Integers((x > 0).float(), one), 0, 1, one)


def _elastic(module: Any) -> Quantizer:
    scale = module.scale.detach().clamp(min=MIN_STEP)
    threshold, half = module.threshold.item(), scale.item() / 2
    if module.symmetric:
        return Quantizer(lambda x: Integers(_signs(x - threshold), scale), -1, 1, scale)
    return Quantizer(lambda x: Integers((x - threshold > half).float(), scale), 0, 1, scale)


def _signs(x: Tensor) -> Tensor:
    """1, or -1 where the sign bit of x is set, that of -0 too."""
    return torch.ones_like(x).copysign_(x)


_QUANTIZERS: dict[type[nn.Module], Callable[[Any], Quantizer]] = {
    UniformQuantizer: _uniform,
    LsqQuantizer: _lsq,
    SignQuantizer: _sign,
    BooleanQuantizer: _boolean,
    ElasticQuantizer: _elastic,
}
