"""Quantizers as ONNX operators: those of `integers`, one by one and in the same order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto
from torch import nn

from bebert_ray.nn.functions import MIN_STEP
from bebert_ray.nn.quantizers import (
    BooleanQuantizer,
    ElasticQuantizer,
    LsqQuantizer,
    SignQuantizer,
    UniformQuantizer,
)
from bebert_ray.packed.integers import Quantizer, quantizer
from bebert_ray.packed.onnx_graph import Graph


class Levels(NamedTuple):
    """The levels of an activation in a graph, see `integers.Integers`.

    Attributes:
        unrounded: the levels before they are rounded, within their range.
        made: the quantizer that gives them; its `scale`, if not None, is that of all values.
        scale: the value that holds each token's own scale; None if there is one for all.
        offset: the value that holds each token's offset; None for 0.
    """

    unrounded: str
    made: Quantizer
    scale: str | None = None
    offset: str | None = None

    def floats(self, g: Graph) -> str:
        """The levels, whole numbers, as floats."""
        return g.op("Round", self.unrounded)

    def values(self, g: Graph) -> str:
        """The quantized values."""
        scale = g.constant(self.made.scale) if self.scale is None else self.scale
        scaled = g.op("Mul", self.floats(g), scale)
        return scaled if self.offset is None else g.op("Add", scaled, self.offset)


def levels(g: Graph, x: str, module: nn.Module) -> Levels:
    """The levels of a quantizer for x."""
    return _QUANTIZERS[type(module)](g, x, module, quantizer(module))


def _uniform(g: Graph, x: str, module: Any, made: Quantizer) -> Levels:
    low, high = (g.constant(bound) for bound in module.clip)
    clipped, last, most = g.op("Clip", x, low, high), g.integers(-1), g.constant(made.highest)
    if module.symmetric:
        top = g.op("ReduceMax", g.op("Abs", clipped), last, keepdims=1)
        top = g.op("Max", top, g.constant(made.highest * np.finfo(np.float32).tiny))
        scaled = g.op("Mul", clipped, g.op("Div", most, top))
        return Levels(scaled, made, g.op("Div", top, most))
    bottom = g.op("Min", g.op("ReduceMin", clipped, last, keepdims=1), g.constant(0))
    top = g.op("ReduceMax", clipped, last, keepdims=1)
    span = g.op("Add", g.op("Sub", top, bottom), g.constant(1e-8))
    scaled = g.op("Mul", g.op("Sub", clipped, bottom), g.op("Div", most, span))
    return Levels(scaled, made, g.op("Div", span, most), bottom)


def _lsq(g: Graph, x: str, module: Any, made: Quantizer) -> Levels:
    inverse = module.step.detach().clamp(min=MIN_STEP).reciprocal()
    scaled = g.op("Mul", x, g.constant(inverse))
    return Levels(g.op("Clip", scaled, g.constant(made.lowest), g.constant(made.highest)), made)


def _sign(g: Graph, x: str, module: Any, made: Quantizer) -> Levels:
    mean = None
    if module.scaled:
        mean = g.op("ReduceMean", g.op("Abs", x), g.integers(-1), keepdims=1)
    return Levels(_signs(g, x), made, mean)


def _boolean(g: Graph, x: str, module: Any, made: Quantizer) -> Levels:
    return Levels(_above(g, x, 0), made)


def _elastic(g: Graph, x: str, module: Any, made: Quantizer) -> Levels:
    centred = g.op("Sub", x, g.constant(module.threshold))
    if module.symmetric:
        return Levels(_signs(g, centred), made)
    assert made.scale is not None
    return Levels(_above(g, centred, made.scale / 2), made)


def _above(g: Graph, x: str, bound: Any) -> str:
    return g.op("Cast", g.op("Greater", x, g.constant(bound)), to=TensorProto.FLOAT)


def _signs(g: Graph, x: str) -> str:
    """-1 where the sign bit of x is set, that of -0 too, else 1."""
    negative = g.op("Less", g.op("Div", g.constant(1), x), g.constant(0))  # 1 / -0 is -infinity
    return g.op("Where", negative, g.constant(-1), g.constant(1))


_QUANTIZERS: dict[type[nn.Module], Callable[[Graph, str, Any, Quantizer], Levels]] = {
    UniformQuantizer: _uniform,
    LsqQuantizer: _lsq,
    SignQuantizer: _sign,
    BooleanQuantizer: _boolean,
    ElasticQuantizer: _elastic,
}
