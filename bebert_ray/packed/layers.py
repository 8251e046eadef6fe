"""Binary weights as bits: layers that hold eight weights a byte, and compute with integers.

A bit of 1 stands for a positive weight; the first column of a row is the highest bit of its first
byte (as in `numpy.packbits`), and a row ends with a whole byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification

from bebert_ray.nn.attention import AttentionQuantizers
from bebert_ray.packed.attention import AttentionParts
from bebert_ray.packed.engines import Product, product
from bebert_ray.packed.integers import Quantizer, quantizer
from bebert_ray.packed.member import PackedMember


class _Bits(nn.Module):
    """Tables of signs and their scales, whose products add up to a weight.

    Attributes:
        signs: uint8 [tables, rows, ceil(columns / 8)].
        scales: float32 [tables, rows, 1], or [tables, 1, 1] with one scale for a table.
        columns: count of weights in a row.
    """

    signs: Tensor
    scales: Tensor

    def __init__(self, tables: list[tuple[Tensor, Tensor]]):
        super().__init__()
        self.columns = tables[0][0].shape[1]
        self.register_buffer("signs", torch.stack([pack(signs) for signs, _ in tables]))
        self.register_buffer("scales", torch.stack([scale.view(-1, 1) for _, scale in tables]))

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The weight [rows, columns], or of an index of any shape, its rows [..., columns]."""
        signs, scales = self.signs, self.scales
        if rows is not None:
            signs, scales = signs[:, rows], scales[:, rows]
        return sum_of(unpack(signs, self.columns).mul_(scales).unbind())

    def tables(self) -> list[tuple[Tensor, Tensor]]:
        """Signs, bool [rows, columns], and scale, [] or [rows, 1], of each table."""
        return [
            (unpack(signs, self.columns) > 0, scale.squeeze() if len(scale) == 1 else scale)
            for signs, scale in zip(self.signs, self.scales, strict=True)
        ]


class _Prepared(nn.Module):
    """A layer that computes with what follows from its parameters, and keeps that.

    It is made at the first call, or by `prepare_`; anew when the module is moved or loaded.
    """

    low_memory = False
    _made: Any = None

    def prepared(self) -> Any:
        """What `prepare` makes."""
        if self._made is None:
            self._made = self.prepare()
        return self._made

    def prepare(self) -> Any:
        """All that follows from the parameters."""
        raise NotImplementedError

    def _apply(self, *arguments: Any, **options: Any) -> Any:
        self._made = None
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._made = None
        super()._load_from_state_dict(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": None}


class PackedLinear(_Prepared):
    """``quantize(x) @ weight.T + bias``, the weight a sum of tables of bits with a scale each.

    Integers are multiplied with signs, exactly, and the sums are scaled: with levels q and scale t
    of the input, signs b and scales s of table i, ``y = (sum_i s_i (q @ b_i.T)) t + bias``. A scale
    t that is the same for all tokens is part of s_i. The tables are stacked: there is one product.

    Signs are unpacked once, to what the engine multiplies with (see `engines`); with `low_memory`
    they stay bits, and are unpacked at every call.

    Args:
        layer: a trained linear layer with `binary_weights`, or a packed one.
    """

    def __init__(self, layer: Any):
        super().__init__()
        self.input_quantizer = layer.input_quantizer
        self.bias = layer.bias
        self.bits = _Bits(layer.binary_weights())

    def forward(self, x: Tensor) -> Tensor:
        """Project [..., in_features] to [..., out_features]."""
        made: _Linear = self.prepared()
        levels, scale, offset = made.quantizer.quantize(x)
        # The engine's product is no operator that torch.export knows.
        if torch.compiler.is_compiling():
            signs = unpack(self.bits.signs, self.bits.columns).flatten(0, 1)
            scaled = F.linear(levels, signs) * made.scales
        else:
            scaled = made.multiply(levels)
        y = scaled if made.tables == 1 else sum_of(scaled.chunk(made.tables, -1))
        if made.quantizer.scale is None:
            y.mul_(scale)
        if offset is not None:
            y.add_(offset * made.offset)
        return y.add_(made.bias)

    def prepare(self) -> _Linear:
        """The quantizer, the product and the scales."""
        made = quantizer(self.input_quantizer)
        signs = unpack(self.bits.signs, self.bits.columns)
        scales = self.bits.scales.squeeze(-1).expand(signs.shape[:2])
        total = sum_of((signs.sum(-1) * scales).unbind())
        scales = (scales if made.scale is None else scales * made.scale).flatten()

        def unpacked() -> Product:
            stacked = unpack(self.bits.signs, self.bits.columns).flatten(0, 1).to(torch.int8)
            return product(stacked, scales, made.lowest, made.highest)

        multiply = (lambda levels: unpacked()(levels)) if self.low_memory else unpacked()
        return _Linear(made, multiply, len(signs), scales, total, self.bias)

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Of each table, where it is positive, bool [rows, columns], and its scale."""
        return self.bits.tables()


class _Linear(NamedTuple):
    """What a `PackedLinear` computes with.

    Attributes:
        quantizer: of the input.
        multiply: from levels [..., columns] to scaled sums [..., tables * rows].
        tables: how many there are.
        scales: of all tables, [tables * rows], times the quantizer's scale if it has one.
        offset: what an input of ones gives without bias, [rows].
        bias: [rows].
    """

    quantizer: Quantizer
    multiply: Product
    tables: int
    scales: Tensor
    offset: Tensor
    bias: Tensor


class PackedEmbedding(nn.Module):
    """An embedding whose rows are unpacked after the look-up: ids [...] to [..., features].

    Args:
        layer: a trained embedding with `binary_weights`, or a packed one.
    """

    def __init__(self, layer: Any):
        super().__init__()
        self.padding_idx = layer.padding_idx
        self.bits = _Bits(layer.binary_weights())

    def forward(self, ids: Tensor) -> Tensor:
        """Look the rows up and unpack them."""
        return self.bits(ids)

    def binary_weights(self) -> list[tuple[Tensor, Tensor]]:
        """Of each table, where it is positive, bool [rows, columns], and its scales, [rows, 1]."""
        return self.bits.tables()


class PackedQuantizers(_Prepared):
    """The four quantizers of an attention module, for `attention.attend`.

    Args:
        quantizers: those of a trained attention module, or packed ones.
    """

    def __init__(self, quantizers: Any):
        super().__init__()
        self.query, self.key, self.value = quantizers.query, quantizers.key, quantizers.value
        self.softmax, self.probs = quantizers.softmax, quantizers.probs

    def prepare(self) -> AttentionParts:
        """The four with their parameters."""
        query, key, value, probs = map(quantizer, (self.query, self.key, self.value, self.probs))
        return AttentionParts(query, key, value, probs, self.softmax)


@torch.no_grad()
def pack_(model: nn.Module) -> None:
    """Replace what has `binary_weights`, and attention, by packed layers, in place.

    Each BERT in the model, or the model itself, becomes a `PackedMember`. It then computes with
    integers: the same but for rounding. It can no longer be trained.
    """
    parent: Any
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, "binary_weights"):
                packed = PackedEmbedding if hasattr(child, "padding_idx") else PackedLinear
                setattr(parent, name, packed(child))
            if isinstance(child, AttentionQuantizers):
                setattr(parent, name, PackedQuantizers(child))
        if isinstance(parent, BertForSequenceClassification):
            parent.__class__ = PackedMember


def is_packed(model: nn.Module) -> bool:
    """Whether `pack_` has made a model a packed member."""
    return isinstance(model, PackedMember)


@torch.no_grad()
def prepare_(model: nn.Module, low_memory: bool = False) -> None:
    """Make all that packed layers compute with, in place, before the first batch does.

    Args:
        model: whose layers are packed.
        low_memory: whether weights stay bits, which are unpacked at every call.
    """
    for module in model.modules():
        if isinstance(module, _Prepared):
            module.low_memory, module._made = low_memory, None
            module.prepared()


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors, added up in their order."""
    first, *others = tensors
    for other in others:
        first = first + other
    return first


def pack(signs: Tensor) -> Tensor:
    """Bool [..., columns] to uint8 [..., ceil(columns / 8)]; the last byte is filled up with 0.

    Examples:
        >>> pack(torch.tensor([[True, False, True]]))
        tensor([[160]], dtype=torch.uint8)
    """
    whole = F.pad(signs.to(torch.uint8), (0, -signs.shape[-1] % 8))
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=signs.device)
    return (whole.unflatten(-1, (-1, 8)) << shifts).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, columns: int) -> Tensor:
    """Uint8 [..., ceil(columns / 8)] to float32 [..., columns] of -1 and 1.

    Examples:
        >>> unpack(torch.tensor([[160]], dtype=torch.uint8), columns=3)
        tensor([[ 1., -1.,  1.]])
    """
    # Looking a byte's eight signs up takes one pass over the result.
    signs = F.embedding(bits.int(), _signs_of_bytes(bits.device)).flatten(-2)
    return signs if signs.shape[-1] == columns else signs[..., :columns].contiguous()


@cache
def _signs_of_bytes(device: torch.device) -> Tensor:
    """The eight signs, of -1 and 1, that each byte stands for: [256, 8]."""
    with torch.inference_mode(False):
        byte = torch.arange(256, device=device)[:, None]
        bits = (byte >> torch.arange(7, -1, -1, device=device)) & 1
        return bits.float() * 2 - 1
