"""The costs of a model, layer by layer: bytes as packed, multiplications, bit operations.

Only shapes are used, so that a model on the meta device is enough (see `bert.outline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

FLOAT_BITS = 32
SCALE_BYTES = 4  # scales are float32 always
TERNARY_BITS = 2  # three values do not fit in one bit
WORD_BITS = 64
TOKENS = 128
"""Length of the sentence that operations are counted for, if no other is asked for."""


@dataclass(frozen=True)
class Cost:
    """The cost of a layer, or of a matrix product between activations.

    Attributes:
        name: of the module; of a product, with what it multiplies after a blank.
        weight_bits: width of a weight; of a product, of its second operand.
        activation_bits: width of what the weights are multiplied with.
        parameters: count of its numbers without scales; a split layer has those of both halves.
        macs: multiplications, each with its addition, for one sentence; a split layer multiplies
            with each of its halves.
        weight_bytes: binary and ternary weights, each row rounded up to whole bytes.
        scale_bytes: their scales.
        float_bytes: weights, biases and all else that stays a float.
        adds_floats: whether each value of a sum has a scale of its own, so that floats are added
            and not integers: the values of tokens with `per_token` quantizers.

    Examples:
        >>> layer = Cost("query", weight_bits=1, activation_bits=4, macs=1000)
        >>> layer.bit_operations, layer.flops
        (4000, 125.0)
    """

    name: str
    weight_bits: int
    activation_bits: int
    parameters: int = 0
    macs: int = 0
    weight_bytes: int = 0
    scale_bytes: int = 0
    float_bytes: int = 0
    adds_floats: bool = False

    @property
    def bit_operations(self) -> int:
        """``macs * weight_bits * activation_bits``; a weight that is scaled on its own has 32."""
        weight_bits = FLOAT_BITS if self.adds_floats else self.weight_bits
        return self.macs * weight_bits * self.activation_bits

    @property
    def flops(self) -> float:
        """FLOPs as the papers count: ``2 * macs``, times ``m n / 64`` for operands of m and n bits.

        Widths are those before scaling. The factor is left out only if both are floats: a
        processor with words of 64 bits multiplies 64 pairs of one-bit numbers at a time.

        Source: BinaryBERT (Bai et al., 2021), section 4, after Zhou et al., 2016, and Liu et al.,
        2018; BiBERT counts likewise.
        """
        if self.weight_bits == self.activation_bits == FLOAT_BITS:
            return 2.0 * self.macs
        return 2 * self.macs * self.weight_bits * self.activation_bits / WORD_BITS


@dataclass(frozen=True)
class Total:
    """The sums over layers; fields as in `Cost`."""

    parameters: int
    macs: int
    bit_operations: int
    flops: float
    weight_bytes: int
    scale_bytes: int
    float_bytes: int

    @property
    def bytes(self) -> int:
        """All of them together."""
        return self.weight_bytes + self.scale_bytes + self.float_bytes


def total(every: Sequence[Cost]) -> Total:
    """Add up costs; those of N members are ``total(costs * N)``."""
    return Total(**{f.name: sum(getattr(cost, f.name) for cost in every) for f in fields(Total)})


@torch.no_grad()
def costs(model: nn.Module, tokens: int = TOKENS, float_bits: int = FLOAT_BITS) -> list[Cost]:
    """The costs of each layer of a model and each matrix product of its attention, in model order.

    Only matrix products are counted as operations. Embedding look-ups, additions, LayerNorm,
    softmax and the quantizers are not.

    Args:
        model: a BERT with a classifier, or a part of one, packed or not, on any device. A layer
            with `binary_weights` or `ternary_weights` is quantized, and its `input_quantizer` has
            `bits`; a layer with neither is in full precision.
        tokens: length of the sentence; the pooler and the classifier see one token of it.
        float_bits: width in which floats are stored; they are multiplied in 32 bits all the same.
    """
    every: list[Cost] = []
    for name, module in model.named_modules():
        if hasattr(module, "all_head_size"):
            every += _products(name, module, tokens, float_bits)
        elif hasattr(module, "binary_weights") or getattr(module, "weight", None) is not None:
            positions = 1 if name.endswith(("pooler.dense", "classifier")) else tokens
            every.append(_layer(name, module, positions, float_bits))
    return every


def _layer(name: str, layer: nn.Module, positions: int, float_bits: int) -> Cost:
    weight_bits, tables = _tables(layer)
    count = sum(table.numel() for table, _ in tables)
    # The latent weights are what the tables are made of.
    rest = sum(p.numel() for key, p in layer.named_parameters() if not key.startswith("weight"))
    is_float = weight_bits == FLOAT_BITS
    multiplies = not hasattr(layer, "padding_idx") and tables[0][0].ndim == 2
    quantizer: Any = getattr(layer, "input_quantizer", None)
    return Cost(
        name,
        weight_bits,
        activation_bits=quantizer.bits if quantizer is not None else FLOAT_BITS,
        parameters=count + rest,
        macs=positions * count if multiplies else 0,
        weight_bytes=0 if is_float else sum(_packed(table, weight_bits) for table, _ in tables),
        scale_bytes=sum(scales.numel() for _, scales in tables) * SCALE_BYTES,
        float_bytes=(rest + count * is_float) * float_bits // 8,
    )


def _tables(layer: Any) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Bits of a layer's weights, and its tables of weights, each with its scales."""
    if hasattr(layer, "binary_weights"):
        return 1, layer.binary_weights()
    if hasattr(layer, "ternary_weights"):
        return TERNARY_BITS, layer.ternary_weights()
    return FLOAT_BITS, [(layer.weight, layer.weight.new_empty(0))]


def _packed(table: Tensor, bits: int) -> int:
    rows, columns = table.shape
    return rows * -(-columns * bits // 8)


def _products(name: str, attention: Any, tokens: int, float_bits: int) -> list[Cost]:
    """``Q K^T`` and ``P V`` of a self-attention, over all its heads, and its quantizers."""
    quantizers = getattr(attention, "quantizers", None)
    macs = tokens * tokens * attention.all_head_size
    if quantizers is None:
        return [Cost(f"{name} {what}", FLOAT_BITS, FLOAT_BITS, 0, macs) for what in ("QK", "PV")]
    learned = sum(p.numel() for p in quantizers.parameters())
    return [
        Cost(
            f"{name} QK",
            quantizers.key.bits,
            quantizers.query.bits,
            parameters=learned,
            macs=macs,
            float_bytes=learned * float_bits // 8,
        ),
        Cost(
            f"{name} PV",
            quantizers.value.bits,
            quantizers.probs.bits,
            macs=macs,
            adds_floats=quantizers.value.per_token,
        ),
    ]
