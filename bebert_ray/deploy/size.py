"""The size of a model counted in bits, as it would be packed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bebert_ray.quant.layers import (
    BinaryEmbedding,
    BinaryLinear,
    SplitEmbedding,
    SplitLinear,
    TernaryEmbedding,
    TernaryLinear,
)

FLOAT_BITS = 32
TERNARY_BITS = 2  # three values do not fit in one bit


@dataclass(frozen=True)
class Size:
    """Bits of a model: its binary or ternary weights, their scales, and all that stays float."""

    weights: int
    scales: int
    floats: int

    @property
    def bits(self) -> int:
        """All of them."""
        return self.weights + self.scales + self.floats

    @property
    def megabytes(self) -> float:
        """All of them, in units of 10^6 bytes as the papers count."""
        return self.bits / 8e6


def model_size(model: nn.Module) -> Size:
    """Count the bits of `model`.

    A binary weight takes one bit in each of its two halves, a ternary one two bits; a linear layer
    has one scale for each half, an embedding one for each row of each half; every other parameter
    takes 32 bits. By this count the weights of a split, half-wide BERT-base take the 16.5 MB that
    BinaryBERT (Bai et al., 2021) reports, and its pooler another 0.15 MB.
    """
    weights = scales = 0
    quantized: set[int] = set()

    def count(tables: list[Tensor], bits: int, per_row: bool) -> None:
        nonlocal weights, scales
        for table in tables:
            quantized.add(id(table))
            weights += table.numel() * bits
            scales += (len(table) if per_row else 1) * FLOAT_BITS

    for module in model.modules():
        per_row = not isinstance(module, SplitLinear | TernaryLinear)
        if isinstance(module, SplitLinear | SplitEmbedding):
            count([module.weight_1, module.weight_2], 1, per_row)
        elif isinstance(module, TernaryLinear | TernaryEmbedding):
            count([module.weight], TERNARY_BITS, per_row)
        elif isinstance(module, BinaryLinear | BinaryEmbedding):
            count([module.weight], 1, per_row)
    floats = sum(p.numel() for p in model.parameters() if id(p) not in quantized)
    return Size(weights, scales, floats * FLOAT_BITS)
