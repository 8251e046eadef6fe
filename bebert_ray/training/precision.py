"""The precision of matrix products: which is fast on this machine, and how it is set."""

from __future__ import annotations

from typing import Literal

import torch


def fast_precision(gpu: float | None = None) -> Literal["bf16", "fp32"]:
    """The precision of matrix products that `training.precision: auto` stands for.

    bf16 where the hardware multiplies it: on GPUs, and on CPUs with AVX512-BF16 or AMX (2 to 3
    times as fast as fp32 there). Elsewhere fp32: without such instructions bf16 products are
    emulated, and take up to 40 times as long.

    Args:
        gpu: what a worker gets of a GPU; None: one if this machine has any.

    Examples:
        >>> fast_precision(gpu=1)
        'bf16'
    """
    if torch.cuda.is_available() if gpu is None else gpu > 0:
        return "bf16"
    capabilities = torch.cpu.get_capabilities()
    fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bfloat16 if `precision` is bf16; all else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
