"""One-bit quantizers as differentiable functions: those of XNOR-Net, BiBERT and BiT.

As in `functions`, all return floats, and the gradient is a clipped straight-through estimator
(STE). A sign is never 0, so that one bit can hold it: 0 counts as positive, and -0 as negative
(GELU of a number far below 0 is -0).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from bebert_ray.nn.compiled import compiled
from bebert_ray.nn.functions import (
    MIN_STEP,
    dot,
    flat,
    mean_magnitude,
    product_dtype,
    rows,
    where_strictly_inside,
)


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scaled: bool) -> Tensor:
        values = rows(x)
        ctx.save_for_backward(values)
        return (scaled_signs if scaled else signs)(values, product_dtype(x)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        return where_strictly_inside(grad, values.view(grad.shape), -1.0, 1.0), None


def signs(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The forward of `sign`: 1 or -1, any shape."""
    return torch.copysign(x.new_ones(()), x).to(dtype)


@compiled
def scaled_signs(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The forward of `sign` with a scale, [rows, columns]."""
    return torch.copysign(mean_magnitude(x, per_row=True), x).to(dtype)


class _Boolean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, positive: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return positive.to(product_dtype(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return where_strictly_inside(grad, x, -1.0, 1.0), None


class _CenterBinarize(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        latent = rows(weight)
        ctx.save_for_backward(latent)
        return centred_signs(latent).view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (latent,) = ctx.saved_tensors
        return centred_backward(latent, grad.contiguous().view_as(latent)).view_as(grad)


@compiled
def centred_signs(weight: Tensor) -> Tensor:
    """The forward of `center_binarize`, [rows, columns]."""
    return torch.copysign(mean_magnitude(weight, per_row=True), _centred(weight))


@compiled
def centred_backward(weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient of `center_binarize`, [rows, columns]."""
    inside = where_strictly_inside(grad, _centred(weight), -1.0, 1.0)
    return inside - inside.mean(-1, keepdim=True)


class _Elastic(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, threshold: Tensor, signed: bool) -> Tensor:
        values, scale, threshold = flat(x), scale.detach(), threshold.detach()
        ctx.save_for_backward(values, scale, threshold)
        ctx.signed = signed
        return elastic_values(values, scale, threshold, signed, product_dtype(x)).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        values, scale, threshold = ctx.saved_tensors
        grad_x, grad_scale, total = elastic_backward(
            values, flat(grad), scale, threshold, ctx.signed
        )
        share = grad.numel() ** -0.5
        return grad_x.view(grad.shape), grad_scale * share, -total * share, None


def _elastic_levels(
    x: Tensor, scale: Tensor, threshold: Tensor, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    scale = scale.clamp(min=MIN_STEP).to(x.dtype)
    scaled = (x - threshold.to(x.dtype)) / scale
    if signed:
        return scaled, torch.copysign(scaled.new_ones(()), scaled), scale
    return scaled, (scaled > 0.5).to(x.dtype), scale


@compiled
def elastic_values(
    x: Tensor, scale: Tensor, threshold: Tensor, signed: bool, dtype: torch.dtype
) -> Tensor:
    """The forward of `elastic`, of [n]."""
    _, level, scale = _elastic_levels(x, scale, threshold, signed)
    return (level * scale).to(dtype)


@compiled
def elastic_backward(
    x: Tensor, grad: Tensor, scale: Tensor, threshold: Tensor, signed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `elastic` for x, [n], and for the scale before it is scaled; and a sum.

    The sum of the first, [], is the threshold's before it is negated and scaled.
    """
    scaled, level, _ = _elastic_levels(x, scale, threshold, signed)
    grad_x = where_strictly_inside(grad, scaled, -1.0 if signed else 0.0, 1.0)
    grad_scale = dot(level, grad)
    if not signed:
        grad_scale = grad_scale - dot(scaled, grad_x)
    return grad_x, grad_scale, grad_x.sum(dtype=torch.float32)


def signs_and_scale(weight: Tensor) -> tuple[Tensor, Tensor]:
    """BiBERT's parts of a weight: where it is positive, and its magnitude; see `center_binarize`.

    Args:
        weight: latent weights, [..., columns].

    Returns:
        Bool [..., columns], and float [..., 1].
    """
    return ~_centred(weight).signbit(), mean_magnitude(weight, per_row=True)


def _centred(weight: Tensor) -> Tensor:
    # In float64, as in `mean_magnitude`: signs then do not depend on the order of the sum.
    return weight - weight.mean(-1, keepdim=True, dtype=torch.float64).to(weight.dtype)


def sign(x: Tensor, scaled: bool = False) -> Tensor:
    """BiBERT's sign of an activation: ``sign(x)``, times ``mean|x|`` of the last axis if `scaled`.

    The gradient is 1 where |x| < 1 and 0 elsewhere (STE, clipped), also if scaled. The scale is
    that of XNOR-Net (Rastegari et al., 2016), one for each token.

    Args:
        x: activations, [..., features].
        scaled: whether a token's values keep their mean magnitude. The published quantizer takes
            one mean over the tensor; one for each token leaves its neighbours out of it.

    Source: BiBERT (Qin et al., 2022), eq. 1 to 3.

    Examples:
        >>> sign(torch.tensor([[0.5, -1.5, 0.0]]))
        tensor([[ 1., -1.,  1.]])
        >>> sign(torch.tensor([[0.5, -1.5]]), scaled=True)
        tensor([[ 1., -1.]])
    """
    return _Sign.apply(x, scaled)


def boolean(x: Tensor, positive: Tensor | None = None) -> Tensor:
    """BiBERT's bool function: 1 where x > 0, else 0; STE, clipped: 1 where |x| < 1, else 0.

    Args:
        x: activations, any shape.
        positive: where x > 0, if that is known more exactly; bool, of the same shape.

    Source: Bi-Attention of BiBERT (Qin et al., 2022), eq. 8: it keeps the attention with positive
    scores, and needs no softmax.

    Examples:
        >>> boolean(torch.tensor([0.5, -1.5, 0.0]))
        tensor([1., 0., 0.])
    """
    return _Boolean.apply(x, x > 0 if positive is None else positive)


def center_binarize(weight: Tensor) -> Tensor:
    """BiBERT's binary weight, BWN after centring: ``mean|w| * sign(w - mean w)``, means over a row.

    Signs of centred weights are + and - equally often, and so carry the most information. The
    gradient is that of ``clamp(w - mean w, -1, 1)`` (STE, clipped).

    Args:
        weight: latent weights, [rows, columns], or rows of a table, [..., columns].

    Source: BiBERT (Qin et al., 2022), eq. 2 and section 3.1.

    Examples:
        >>> center_binarize(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-3., -3.,  3.]])
    """
    return _CenterBinarize.apply(weight)


def elastic(x: Tensor, scale: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """BiT's elastic binarization: binary activations with a learned scale a and threshold b.

    With v = (x - b) / a:

    * signed: ``a * sign(v)``, values of {-a, a};
    * else: ``a * round(clamp(v, 0, 1))``, values of {0, a}.

    Gradients: for `x` 1 where -1 < v < 1 (signed) or 0 < v < 1, else 0; for the threshold the
    negative sum of those; for the scale the sum of the level, which is less v inside the range
    where not signed. The last two are scaled by ``1 / sqrt(numel)``, as a learned step is.

    Args:
        x: activations, any shape.
        scale: [], positive.
        threshold: [].
        signed: which of the two sets of values.

    Source: BiT (Liu et al., 2022), sections 3.1 (two sets) and 3.2 (elastic binarization).

    Examples:
        >>> a, b = torch.tensor(2.0), torch.tensor(0.0)
        >>> elastic(torch.tensor([0.5, -1.5, 3.0]), a, b, signed=True)
        tensor([ 2., -2.,  2.])
        >>> elastic(torch.tensor([0.5, -1.5, 3.0]), a, b, signed=False)
        tensor([0., 0., 2.])
    """
    return _Elastic.apply(x, scale, threshold, signed)
