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

from bebert_ray.nn.functions import MIN_STEP, dot, mean_magnitude, where_strictly_inside


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scaled: bool) -> Tensor:
        ctx.save_for_backward(x)
        magnitude = mean_magnitude(x, per_row=True) if scaled else x.new_ones(())
        return torch.copysign(magnitude, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return where_strictly_inside(grad, x, -1.0, 1.0), None


class _Boolean(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, positive: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return positive.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return where_strictly_inside(grad, x, -1.0, 1.0), None


class _CenterBinarize(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        centred = _centred(weight)
        ctx.save_for_backward(centred)
        return torch.copysign(mean_magnitude(weight, per_row=True), centred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        inside = where_strictly_inside(grad, centred, -1.0, 1.0)
        return inside - inside.mean(-1, keepdim=True)


class _Elastic(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, threshold: Tensor, signed: bool) -> Tensor:
        scale = scale.clamp(min=MIN_STEP).to(x.dtype)
        scaled = (x - threshold.to(x.dtype)) / scale
        if signed:
            level = torch.copysign(scaled.new_ones(()), scaled)
        else:
            level = (scaled > 0.5).to(x.dtype)
        ctx.save_for_backward(scaled, level)
        ctx.signed = signed
        return level * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        scaled, level = ctx.saved_tensors
        grad_x = where_strictly_inside(grad, scaled, -1.0 if ctx.signed else 0.0, 1.0)
        grad_scale = dot(level, grad)
        if not ctx.signed:
            grad_scale = grad_scale - dot(scaled, grad_x)
        share = grad.numel() ** -0.5
        return grad_x, grad_scale * share, -grad_x.sum(dtype=torch.float32) * share, None


def signs_and_scale(weight: Tensor) -> tuple[Tensor, Tensor]:
    """BiBERT's parts of a weight: where it is positive, and its magnitude; see `center_binarize`.

    Args:
        weight: latent weights, [..., columns].

    Returns:
        Bool [..., columns], and float [..., 1].
    """
    return ~_centred(weight).signbit(), mean_magnitude(weight, per_row=True)


def _centred(weight: Tensor) -> Tensor:
    return weight - weight.mean(-1, keepdim=True)


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
