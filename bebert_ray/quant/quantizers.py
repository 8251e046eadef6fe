"""Activation quantizers as modules: a function with its bit width and its learned parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bebert_ray.quant import functions

INITIAL_CLIP = 2.5


class UniformQuantizer(nn.Module):
    """`functions.uniform` with a learned clip [2], one scale per token."""

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
    """`functions.lsq` with a learned step [].

    `calibrate_` sets the step from data before training. An asymmetric one is for inputs that are
    never negative (ReLU outputs, probabilities): its level 0 is zero.
    """

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
        """Set the step from the activations that the quantizer meets first."""
        self.step.copy_(functions.lsq_initial_step(x, self.bits, self.symmetric))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"bits={self.bits}, symmetric={self.symmetric}"


def activation_quantizer(bits: int, symmetric: bool = True) -> nn.Module:
    """A quantizer for `bits`: uniform from 8 on, LSQ below (BinaryBERT, section 4.1)."""
    return UniformQuantizer(bits, symmetric) if bits >= 8 else LsqQuantizer(bits, symmetric)


def calibrate_(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """Set every LSQ step of `model` from one batch, in the order in which the activations flow.

    Args:
        model: a model with `LsqQuantizer` modules; without any nothing happens.
        batch: keyword arguments of the model's forward.
    """
    quantizers = [module for module in model.modules() if isinstance(module, LsqQuantizer)]
    if not quantizers:
        return

    def initialize(quantizer: LsqQuantizer, inputs: tuple[Tensor, ...]) -> None:
        quantizer.initialize_(inputs[0])

    hooks = [quantizer.register_forward_pre_hook(initialize) for quantizer in quantizers]
    try:
        with torch.no_grad():
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
