"""Quantizers as differentiable functions: BWN, TWN, PACT with uniform levels, and LSQ.

All are *fake* quantizers: they return floats that take only as many distinct values as the bit
width allows, and pass a surrogate gradient to the latent full-precision input: the
straight-through estimator (STE; Bengio et al., 2013). Each docstring states the forward, the
gradient and the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from bebert_ray.nn.compiled import compiled, uses_compiler

TERNARY_THRESHOLD = 0.7  # of the mean magnitude (Li et al., 2016, eq. 6)
MIN_STEP = 1e-5  # a learned step must not reach zero
MARGIN = 1e-4  # makes the bounds of the LSQ range belong to it


def mean_magnitude(weight: Tensor, per_row: bool) -> Tensor:
    """The magnitude of XNOR-Net and BWN: ``mean|w|`` of the tensor, [], or of each row, [..., 1].

    Examples:
        >>> mean_magnitude(torch.tensor([[1.0, -3.0]]), per_row=False)
        tensor(2.)
    """
    # Summed in float64: the scale then does not depend on how many threads share the reduction, and
    # the two halves of a split weight get exactly half of the ternary scale.
    magnitude = weight.abs()
    if per_row:
        return magnitude.mean(dim=-1, keepdim=True, dtype=torch.float64).to(weight.dtype)
    return magnitude.mean(dtype=torch.float64).to(weight.dtype)


def _shaped(values: Callable[..., Tensor], *weights: Tensor, per_row: bool) -> Tensor:
    """Weights as a table, whose rows go on to a sum, or whole, as the factor of a product."""
    if per_row:
        return values(*map(rows, weights), True, weights[0].dtype).view_as(weights[0])
    return values(*map(flat, weights), False, product_dtype(weights[0])).view_as(weights[0])


class _Binarize(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, per_row: bool) -> Tensor:
        return _shaped(binary_values, weight, per_row=per_row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.float(), None


@compiled
def binary_values(weight: Tensor, per_row: bool, dtype: torch.dtype) -> Tensor:
    """BWN's forward, of [n] or [rows, columns]; see `binarize`."""
    return torch.copysign(mean_magnitude(weight, per_row), weight).to(dtype)


class _BinarizeSum(Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, per_row: bool) -> Tensor:
        return _shaped(binary_sum, first, second, per_row=per_row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad = grad.float()
        return grad, grad, None


@compiled
def binary_sum(first: Tensor, second: Tensor, per_row: bool, dtype: torch.dtype) -> Tensor:
    """The forward of `binarize_sum`, of [n] or [rows, columns] each."""
    values = torch.copysign(mean_magnitude(first, per_row), first)
    return values.add_(torch.copysign(mean_magnitude(second, per_row), second)).to(dtype)


class _Ternarize(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, per_row: bool) -> Tensor:
        return _shaped(ternary_values, weight, per_row=per_row)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.float(), None


@compiled
def ternary_values(weight: Tensor, per_row: bool, dtype: torch.dtype) -> Tensor:
    """TWN's forward, of [n] or [rows, columns]; see `ternarize`."""
    levels, scale = ternary_weight(weight, per_row)
    return levels.mul_(scale).to(dtype)


class _Uniform(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, clip: Tensor, bits: int, symmetric: bool, per_row: bool
    ) -> Tensor:
        values, clip = rows(x) if per_row else flat(x), clip.detach()
        ctx.save_for_backward(values, clip)
        levels = 2 ** (bits - symmetric) - 1
        quantize = uniform_symmetric if symmetric else uniform_asymmetric
        return quantize(values, clip, levels, per_row, product_dtype(x)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        values, clip = ctx.saved_tensors
        grad_x, grad_clip = uniform_backward(flat(values), flat(grad), clip)
        return grad_x.view(grad.shape), grad_clip, None, None, None


@compiled
def uniform_symmetric(
    x: Tensor, clip: Tensor, levels: int, per_row: bool, dtype: torch.dtype
) -> Tensor:
    """The symmetric forward of `uniform`, of [n] or [rows, columns]; `levels` above zero."""
    clipped = x.clamp(*_numbers(clip))
    magnitude = clipped.abs()
    top = magnitude.amax(-1, keepdim=True) if per_row else magnitude.amax()
    # A row of zeros has no scale of its own; any finite one will do.
    scale = levels / top.clamp(min=levels * torch.finfo(x.dtype).tiny)
    return clipped.mul_(scale).round_().div_(scale).to(dtype)


@compiled
def uniform_asymmetric(
    x: Tensor, clip: Tensor, levels: int, per_row: bool, dtype: torch.dtype
) -> Tensor:
    """The asymmetric forward of `uniform`, of [n] or [rows, columns]; `levels` above the lowest."""
    clipped = x.clamp(*_numbers(clip))
    if per_row:
        bottom, top = clipped.amin(-1, keepdim=True), clipped.amax(-1, keepdim=True)
    else:
        bottom, top = clipped.amin(), clipped.amax()
    # Zero belongs to the range: padding, of probability 0, must not be what brings it in.
    bottom = bottom.clamp(max=0)
    span = top - bottom + 1e-8
    unit = clipped.sub_(bottom).div_(span).mul_(levels).round_().div_(levels)
    return unit.mul_(span).add_(bottom).to(dtype)


@compiled
def uniform_backward(x: Tensor, grad: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `uniform` for x, [n], and for the two bounds, [2]."""
    low, high = _numbers(clip)
    grad_x = where_strictly_inside(grad, x, low, high)
    outside = grad - grad_x
    total = outside.sum(dtype=torch.float32)
    at_high = dot(outside, (x.clamp(low, high) - low)) / (high - low)
    return grad_x, torch.stack([total - at_high, at_high])


class _Lsq(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, bits: int, symmetric: bool) -> Tensor:
        lowest, highest = ctx.range = lsq_range(bits, symmetric)
        values, step = flat(x), step.detach()
        out = lsq_values(values, step, lowest, highest, product_dtype(x))
        exact = out if out.dtype == x.dtype else None
        ctx.save_for_backward(values, exact, step)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, out, step = ctx.saved_tensors
        grad_x, total = lsq_backward(values, out, flat(grad), step, *ctx.range)
        share = math.sqrt(grad.numel() * ctx.range[1])
        return grad_x.view(grad.shape), total / share, None, None


@compiled
def lsq_values(x: Tensor, step: Tensor, lowest: int, highest: int, dtype: torch.dtype) -> Tensor:
    """The forward of `lsq`, of [n]."""
    step = step.clamp(min=MIN_STEP).to(x.dtype)
    return (x / step).round_().clamp_(lowest, highest).mul_(step).to(dtype)


@compiled
def lsq_backward(
    x: Tensor, out: Tensor | None, grad: Tensor, step: Tensor, lowest: int, highest: int
) -> tuple[Tensor, Tensor]:
    """The gradients of `lsq` for x, [n], and for the step before it is scaled, [].

    `out` is what the forward gave, in the type of x, or None: then it is computed again.
    """
    step = step.clamp(min=MIN_STEP)
    if out is None:
        out = (x / step).round_().clamp_(lowest, highest).mul_(step)
    low, high = _numbers(torch.stack([step * (lowest - MARGIN), step * (highest + MARGIN)]))
    grad_x = where_strictly_inside(grad, x, low, high)
    # d(out)/d(step) is round(v) - v inside the range, the bound outside: level - v * inside.
    return grad_x, (dot(out, grad) - dot(x, grad_x)) / step


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which a quantizer gives the values of `x`, for a product.

    It is that of autocast, if that is on: to convert them later would be a pass over memory more,
    and one for their gradient. Without a compiler it is a pass in any case: then the type of `x`.
    """
    device = x.device.type
    if uses_compiler() and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _numbers(tensor: Tensor) -> tuple[Any, Any]:
    """The two numbers of a tensor [2], as what takes least: a GPU would have to be waited for."""
    if torch.compiler.is_compiling() or not tensor.is_cpu:
        return tensor[0], tensor[1]
    low, high = tensor.tolist()
    return low, high


def flat(x: Tensor) -> Tensor:
    """The numbers of `x` in one dimension, [n], without its history.

    Compiled code that takes one dimension serves inputs of any shape.
    """
    return x.detach().contiguous().view(-1)


def rows(x: Tensor) -> Tensor:
    """The rows of `x`, [n, columns], without its history; see `flat`."""
    return x.detach().contiguous().view(-1, x.shape[-1])


def where_strictly_inside(
    grad: Tensor, x: Tensor, low: float | Tensor, high: float | Tensor
) -> Tensor:
    """The gradient of a clipped STE: `grad` where low < x < high, 0 elsewhere; in the type of x.

    Examples:
        >>> where_strictly_inside(torch.ones(3), torch.tensor([-2.0, 0.0, 1.0]), -1.0, 1.0)
        tensor([0., 1., 0.])
    """
    grad = grad.to(x.dtype)  # of a product it may be bfloat16, see `product_dtype`
    if isinstance(low, Tensor):
        return torch.where((x > low) & (x < high), grad, 0)
    # The backward of hardtanh: one pass. Masks of comparisons take four, and ten times as long.
    return torch.ops.aten.hardtanh_backward(grad, x, low, high)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a * b in float32, []."""
    if a.dim() == 1 and a.dtype == b.dtype == torch.float32 and not torch.compiler.is_compiling():
        return torch.dot(a, b)  # one pass
    return (a * b).sum(dtype=torch.float32)


def ternary_mask(weight: Tensor, per_row: bool = False) -> Tensor:
    """The weights that TWN keeps: |w| > 0.7 mean|w|. Bool, same shape as `weight`."""
    return weight.abs() > TERNARY_THRESHOLD * mean_magnitude(weight, per_row)


def ternary_scale(weight: Tensor, kept: Tensor, per_row: bool = False) -> Tensor:
    """TWN's scale: the mean magnitude of the kept weights, shape [] or [rows, 1]."""
    magnitude = weight.abs() * kept
    if per_row:
        total = magnitude.sum(-1, keepdim=True, dtype=torch.float64)
        count = kept.sum(-1, keepdim=True)
    else:
        total, count = magnitude.sum(dtype=torch.float64), kept.sum()
    return (total / count.clamp(min=1)).to(weight.dtype)


def binary_weight(weight: Tensor, per_row: bool = False) -> tuple[Tensor, Tensor]:
    """BWN's parts of a weight: where it is positive, and its magnitude; see `binarize`.

    Returns:
        Bool, of the shape of `weight`, and float, [] or [rows, 1].
    """
    return ~weight.signbit(), mean_magnitude(weight, per_row)


def ternary_weight(weight: Tensor, per_row: bool = False) -> tuple[Tensor, Tensor]:
    """TWN's parts of a weight: its levels of -1, 0 and 1, and their magnitude; see `ternarize`.

    Returns:
        Float, of the shape of `weight`, and float, [] or [rows, 1].
    """
    kept = ternary_mask(weight, per_row)
    return weight.sign().mul_(kept), ternary_scale(weight, kept, per_row)


def binarize(weight: Tensor, per_row: bool = False) -> Tensor:
    """BWN, Binary Weight Network: ``mean|w| * sign(w)``; the gradient is the identity's (STE).

    A sign is never 0, so that one bit can hold it: 0 counts as positive, and -0 as negative.

    Args:
        weight: latent weights, [rows, columns].
        per_row: one scale for each row (embeddings) instead of one for the tensor.

    Source: Rastegari et al., XNOR-Net, 2016, eq. 6; scale per tensor as in BinaryBERT (Bai et al.,
    2021).

    Examples:
        >>> binarize(torch.tensor([[1.0, -3.0], [2.0, 2.0]]))
        tensor([[ 2., -2.],
                [ 2.,  2.]])
    """
    return _Binarize.apply(weight, per_row)


def binarize_sum(first: Tensor, second: Tensor, per_row: bool = False) -> Tensor:
    """The sum of two weights' binary values, ``binarize(first) + binarize(second)``, in one pass.

    Args:
        first: latent weights, [rows, columns].
        second: of the same shape.
        per_row: see `binarize`.

    Examples:
        >>> binarize_sum(torch.tensor([[1.0, -3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([[ 3., -1.]])
    """
    return _BinarizeSum.apply(first, second, per_row)


def ternarize(weight: Tensor, per_row: bool = False) -> Tensor:
    """TWN, Ternary Weight Network: ``alpha * sign(w) * [|w| > 0.7 mean|w|]``.

    ``alpha`` is the mean of the kept |w|; the gradient is that of the identity (STE). Arguments as
    for `binarize`.

    Source: Li et al., Ternary Weight Networks, 2016, eq. 5 and 6.

    Examples:
        >>> ternarize(torch.tensor([[1.0, -3.0], [0.2, 2.0]]))
        tensor([[ 0.0000, -2.5000],
                [ 0.0000,  2.5000]])
    """
    return _Ternarize.apply(weight, per_row)


def uniform(x: Tensor, clip: Tensor, bits: int, symmetric: bool, per_row: bool = True) -> Tensor:
    """PACT with uniform levels: quantization of an activation clipped to a learned interval.

    With c = clamp(x, clip[0], clip[1]):

    * symmetric: ``round(c * s) / s`` with ``s = (2^(bits-1) - 1) / max|c|``;
    * asymmetric: ``round((c - m) / (max c - m) * (2^bits - 1))``, mapped back, with
      ``m = min(c, 0)``: the range holds zero, so that padding cannot widen it.

    Gradients: 1 strictly inside the interval, 0 outside; each clip bound receives the gradient of
    the values at or beyond it.

    Args:
        x: activations, [..., features].
        clip: the two bounds, [2].
        bits: width of one value.
        symmetric: whether zero is the middle of the range.
        per_row: take the extremes over the last axis (a token keeps its own scale, so that nothing
            else in the batch changes its value) instead of over the tensor.

    Source: Zafrir et al., Q8BERT, 2019; clip gradient of PACT (Choi et al., 2018, eq. 2).

    Examples:
        >>> clip = torch.tensor([-2.5, 2.5])
        >>> uniform(torch.tensor([[0.9, -1.6, 9.0]]), clip, bits=3, symmetric=True)
        tensor([[ 0.8333, -1.6667,  2.5000]])
    """
    return _Uniform.apply(x, clip, bits, symmetric, per_row)


def lsq_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """LSQ's lowest and highest integer level.

    Examples:
        >>> lsq_range(4, symmetric=True), lsq_range(4, symmetric=False)
        ((-8, 7), (0, 15))
    """
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def lsq_initial_step(x: Tensor, bits: int, symmetric: bool) -> Tensor:
    """LSQ's first step: ``2 mean|x| / sqrt(Qp)``, twice that when asymmetric; []."""
    _, highest = lsq_range(bits, symmetric)
    return (2 if symmetric else 4) * x.detach().float().abs().mean() / math.sqrt(highest)


def lsq(
    x: Tensor, step: Tensor, bits: int, symmetric: bool, offset: Tensor | None = None
) -> Tensor:
    """LSQ, learned step size quantization: ``clamp(round((x - o) / step), Qn, Qp) * step + o``.

    Gradients, with v = (x - o) / step: 1 inside the range and 0 outside for `x`; for `step` the sum
    of ``round(v) - v`` inside and the bound outside, scaled by ``1 / sqrt(numel * Qp)``.

    Args:
        x: activations, any shape.
        step: size of one level, [].
        bits: width of one value.
        symmetric: levels Qn .. Qp are -2^(bits-1) .. 2^(bits-1)-1, else 0 .. 2^bits-1.
        offset: the value of level 0, [] (the published asymmetric quantizer takes the smallest x);
            None for 0.

    Source: Esser et al., Learned Step Size Quantization, 2020, eq. 1 to 3.

    Examples:
        >>> lsq(torch.tensor([0.7, -0.2, 9.0]), torch.tensor(0.5), bits=2, symmetric=True)
        tensor([0.5000, -0.0000, 0.5000])
    """
    if offset is None:
        return _Lsq.apply(x, step, bits, symmetric)
    offset = offset.detach()
    return _Lsq.apply(x - offset, step, bits, symmetric) + offset
