"""Products of integers with signs: exact, and as fast as torch and the machine allow.

A level of at most 8 bits times a sign, summed over fewer than 65,793 inputs, is a whole number
below 2^24. float32 holds such numbers exactly, so a sum is the same in whatever order and by
whatever instructions it is made, and so is its product with a scale, which is rounded once: the
engines differ in speed and memory alone.

The rule, which `engine` applies once for each process:

* on a GPU `bf16`: bfloat16 holds levels and signs, and products are summed in float32;
* on an x86 CPU `onednn`: uint8 times int8 by oneDNN, which uses AVX2, AVX-512 VNNI or AMX;
* elsewhere, and if torch lacks that operator or a product of extremes is not exact, `fp32`: matrix
  products of float32.

On a CPU with AVX2 (2048 x 384 by 384 x 1536, one thread) `fp32` takes 40 ms, `onednn` 14 ms, and
`torch._int_mm`, which needs VNNI or AMX to be fast, 1,260 ms.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Engine = Literal["onednn", "bf16", "fp32"]

Product = Callable[[Tensor], Tensor]
"""From levels, float32 [..., columns], to their scaled sums with each row of signs, [..., rows]."""

X86 = ("x86_64", "amd64")

_SHIFT = 128


def product(signs: Tensor, scales: Tensor, lowest: int, highest: int) -> Product:
    """Prepare ``(levels @ signs.T) * scales``.

    Args:
        signs: int8 [rows, columns] of -1 and 1, on the device of the levels.
        scales: float32 [rows].
        lowest: the lowest level.
        highest: the highest level; what does not fit in 8 bits is multiplied in float32.

    Returns:
        The function that multiplies; it may change its argument.

    Examples:
        >>> signs = torch.tensor([[1, -1], [1, 1]], dtype=torch.int8)
        >>> times = product(signs, torch.tensor([1.0, 0.5]), lowest=-8, highest=7)
        >>> times(torch.tensor([[7.0, -8.0]]))
        tensor([[15.0000, -0.5000]])
    """
    chosen = engine(signs.device.type) if fits(lowest, highest) else "fp32"
    with torch.inference_mode(False):
        return _ENGINES[chosen](signs, scales, lowest, highest)


def fits(lowest: int, highest: int) -> bool:
    """Whether 8 bits hold all levels.

    Examples:
        >>> fits(0, 255), fits(-32767, 32767)
        (True, False)
    """
    return lowest >= -_SHIFT and highest - lowest < 2 * _SHIFT


@cache
def engine(device: str = "cpu") -> Engine:
    """The engine for a type of device, `cpu` or `cuda`; see the rule above."""
    fast: Engine = "bf16" if device == "cuda" else "onednn"
    known = device == "cuda" or (device == "cpu" and platform.machine().lower() in X86)
    return fast if known and _is_exact(fast, device) else "fp32"


def _is_exact(name: Engine, device: str) -> bool:
    # Instructions of AVX2 add pairs of products in 16 bits: signs are too small for these to
    # overflow, and this sees to it.
    signs = torch.ones(16, 512, dtype=torch.int8, device=device)
    signs[::2] = -1
    levels = torch.full((4, 512), 255.0, device=device)
    scales = torch.linspace(0.1, 0.9, 16, device=device)
    try:
        scaled = _ENGINES[name](signs, scales, 0, 255)(levels.clone())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(scaled, levels @ signs.float().T * scales)


def _onednn(signs: Tensor, scales: Tensor, lowest: int, highest: int) -> Product:
    weight = torch.ops.onednn.qlinear_prepack(signs, None)
    zeros = torch.zeros(len(signs), dtype=torch.int32)
    shift = _SHIFT if lowest < 0 else 0
    wide = highest >= _SHIFT
    high_bit = torch.tensor(_SHIFT, dtype=torch.uint8)  # torch converts a number at each call

    def multiply(levels: Tensor) -> Tensor:
        # A cast to int8 takes a quarter of the time of one to uint8.
        narrow = (levels.sub_(_SHIFT) if wide else levels).to(torch.int8).view(torch.uint8)
        if wide or shift:
            narrow.bitwise_xor_(high_bit)  # adds 128 modulo 256
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(narrow.reshape(-1, narrow.shape[-1]), 1.0, shift, weight, scales, zeros),
            *(None, 1.0, 0, torch.float32, "none", [], ""),
        )
        return sums.view(*levels.shape[:-1], -1)

    return multiply


def _bf16(signs: Tensor, scales: Tensor, lowest: int, highest: int) -> Product:
    weight = signs.bfloat16().T

    def multiply(levels: Tensor) -> Tensor:
        rows = levels.bfloat16().reshape(-1, levels.shape[-1])
        sums: Tensor = torch.mm(rows, weight, out_dtype=torch.float32)
        return sums.mul_(scales).view(*levels.shape[:-1], -1)

    return multiply


def _fp32(signs: Tensor, scales: Tensor, lowest: int, highest: int) -> Product:
    weight = signs.float()
    return lambda levels: F.linear(levels, weight).mul_(scales)


_ENGINES: dict[Engine, Callable[[Tensor, Tensor, int, int], Product]] = {
    "onednn": _onednn,
    "bf16": _bf16,
    "fp32": _fp32,
}
