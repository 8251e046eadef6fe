"""ONNX graphs, built node by node, with quantizers and packed weights as operators.

Needs the package `onnx` (extra `onnx`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bebert_ray.nn.functions import MIN_STEP, lsq_range
from bebert_ray.nn.quantizers import (
    BooleanQuantizer,
    ElasticQuantizer,
    LsqQuantizer,
    SignQuantizer,
    UniformQuantizer,
)

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # which goes with it
MICROSOFT = "com.microsoft"
BLOCK = 128  # weights of a row that share a scale in MatMulNBits
CODE_BITS = 2
CODE_ZERO = 2  # of codes 0 to 3; -1 and 1 are 1 and 3

WeightFormat = Literal["bits", "nbits"]
"""How binary weights of linear layers are stored, see `Graph.binary_product`."""


class Graph:
    """A graph under construction. `op` and `constant` return the names of values."""

    def __init__(self, weights: WeightFormat):
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)
        )
        return output

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant; one of the same value is stored once."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self._tensors.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant(values, np.int64)

    def finish(self, inputs: tuple[str, ...], output: str, labels: int) -> onnx.ModelProto:
        """The model: int64 inputs [batch, tokens], and a float output `logits` [batch, labels]."""
        tokens = ["batch", "tokens"]
        self._nodes.append(helper.make_node("Identity", [output], ["logits"]))
        graph = helper.make_graph(
            self._nodes,
            "bebert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in inputs],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
            self._tensors,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if self.weights == "nbits":
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bebert_ray"
        )

    def binary_product(self, x: str, tables: list[tuple[Tensor, Tensor]]) -> str:
        """``x @ weight.T``, the weight the sum of tables of signs, each with its scales.

        With `bits` a weight takes one bit in the file. Bytes index a table of signs, an expression
        of constants, which an engine evaluates when it opens the file: in memory weights are
        floats, and there is one product for all tables. With `nbits` weights are 2-bit codes, also
        in memory, with a MatMulNBits of onnxruntime for each table.
        """
        if self.weights == "bits":
            scaled = [
                self.op("Mul", self.signs(signs), self.constant(scale)) for signs, scale in tables
            ]
            whole = self.op("Transpose", self.sum(scaled), perm=[1, 0])
            return self.op("MatMul", x, whole)
        return self.sum([self._coded_product(x, signs, scale) for signs, scale in tables])

    def signs(self, signs: Tensor, rows: str | None = None) -> str:
        """Floats of -1 and 1 from a table of bits: all [rows, columns], or [..., columns] of some.

        Args:
            signs: where the table is positive, bool [rows, columns].
            rows: an index of its rows, of any shape; None for all in order.
        """
        columns = signs.shape[1]
        bits = self.constant(np.packbits(signs.cpu().numpy(), axis=1), np.uint8)
        if rows is not None:
            bits = self.op("Gather", bits, rows)
        byte = np.arange(256, dtype=np.uint8)[:, None]
        eight = self.constant(np.unpackbits(byte, axis=1) * 2.0 - 1)
        floats = self.op("Gather", eight, self.op("Cast", bits, to=TensorProto.INT32))
        # The last two axes become one, whatever is before them.
        leading = self.op("Shape", bits, start=0, end=-1)
        shape = self.op("Concat", leading, self.integers(-(-columns // 8) * 8), axis=0)
        whole = self.op("Reshape", floats, shape)
        ends = (self.integers(0), self.integers(columns), self.integers(-1))
        return whole if columns % 8 == 0 else self.op("Slice", whole, *ends)

    def sum(self, values: list[str]) -> str:
        """The sum of one or more values."""
        total, *others = values
        for other in others:
            total = self.op("Add", total, other)
        return total

    def _coded_product(self, x: str, signs: Tensor, scale: Tensor) -> str:
        rows, columns = signs.shape
        blocks = -(-columns // BLOCK)
        codes = np.full((rows, blocks * BLOCK), CODE_ZERO, np.uint8)
        codes[:, :columns] = np.where(signs.cpu().numpy(), CODE_ZERO + 1, CODE_ZERO - 1)
        places = np.arange(8 // CODE_BITS, dtype=np.uint8) * CODE_BITS
        packed = (codes.reshape(rows, blocks, -1, len(places)) << places).sum(-1, dtype=np.uint8)
        scales = scale.expand(rows, 1).expand(rows, blocks).reshape(rows, blocks)
        return self.op(
            "MatMulNBits",
            x,
            self.constant(packed, np.uint8),
            self.constant(scales),
            domain=MICROSOFT,
            K=columns,
            N=rows,
            bits=CODE_BITS,
            block_size=BLOCK,
        )


def quantized(g: Graph, x: str, quantizer: nn.Module) -> str:
    """The output of a quantizer for x, see `nn.functions` and `nn.binary`."""
    return _QUANTIZERS[type(quantizer)](g, x, quantizer)


def _uniform(g: Graph, x: str, quantizer: Any) -> str:
    low, high = (g.constant(bound) for bound in quantizer.clip)
    clipped = g.op("Clip", x, low, high)
    last = g.integers(-1)
    if quantizer.symmetric:
        levels = 2 ** (quantizer.bits - 1) - 1
        top = g.op("ReduceMax", g.op("Abs", clipped), last, keepdims=1)
        least = g.constant(levels * np.finfo(np.float32).tiny)
        scale = g.op("Div", g.constant(levels), g.op("Max", top, least))
        return g.op("Div", g.op("Round", g.op("Mul", clipped, scale)), scale)
    levels = g.constant(2**quantizer.bits - 1)
    bottom = g.op("Min", g.op("ReduceMin", clipped, last, keepdims=1), g.constant(0))
    top = g.op("ReduceMax", clipped, last, keepdims=1)
    span = g.op("Add", g.op("Sub", top, bottom), g.constant(1e-8))
    unit = g.op("Div", g.op("Sub", clipped, bottom), span)
    unit = g.op("Div", g.op("Round", g.op("Mul", unit, levels)), levels)
    return g.op("Add", g.op("Mul", unit, span), bottom)


def _lsq(g: Graph, x: str, quantizer: Any) -> str:
    lowest, highest = (g.constant(end) for end in lsq_range(quantizer.bits, quantizer.symmetric))
    step = g.constant(quantizer.step.detach().clamp(min=MIN_STEP))
    level = g.op("Clip", g.op("Round", g.op("Div", x, step)), lowest, highest)
    return g.op("Mul", level, step)


def _sign(g: Graph, x: str, quantizer: Any) -> str:
    signs = _signs(g, x)
    if not quantizer.scaled:
        return signs
    mean = g.op("ReduceMean", g.op("Abs", x), g.integers(-1), keepdims=1)
    return g.op("Mul", signs, mean)


def _boolean(g: Graph, x: str, quantizer: Any) -> str:
    return g.op("Cast", g.op("Greater", x, g.constant(0)), to=TensorProto.FLOAT)


def _elastic(g: Graph, x: str, quantizer: Any) -> str:
    scale = g.constant(quantizer.scale.detach().clamp(min=MIN_STEP))
    scaled = g.op("Div", g.op("Sub", x, g.constant(quantizer.threshold)), scale)
    if quantizer.symmetric:
        return g.op("Mul", _signs(g, scaled), scale)
    level = g.op("Cast", g.op("Greater", scaled, g.constant(0.5)), to=TensorProto.FLOAT)
    return g.op("Mul", level, scale)


def _signs(g: Graph, x: str) -> str:
    """-1 where the sign bit of x is set, that of -0 too, else 1."""
    negative = g.op("Less", g.op("Div", g.constant(1), x), g.constant(0))  # 1 / -0 is -infinity
    return g.op("Where", negative, g.constant(-1), g.constant(1))


_QUANTIZERS: dict[type[nn.Module], Callable[[Graph, str, Any], str]] = {
    UniformQuantizer: _uniform,
    LsqQuantizer: _lsq,
    SignQuantizer: _sign,
    BooleanQuantizer: _boolean,
    ElasticQuantizer: _elastic,
}
