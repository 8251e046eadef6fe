"""ONNX graphs, built node by node, with tables of bits and products of integers.

Needs the package `onnx` (extra `onnx`).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # which goes with it

Engine = Literal["onnxruntime", "openvino"]
"""Which engine a graph is for, see `Graph.integer_product`. Each can run the graph of the other."""

WeightFormat = Literal["bits", "int8"]
"""How a file stores binary weights: one bit each, or the byte that engines multiply with."""


class Graph:
    """A graph under construction. `op` and `constant` return the names of values."""

    def __init__(self, engine: Engine, weights: WeightFormat):
        self.engine, self.weights = engine, weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
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
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bebert_ray"
        )

    def integer_product(self, levels: str, lowest: int, bits: Tensor, columns: int) -> str:
        """``levels @ signs.T`` as floats, which hold the integer sums exactly.

        For onnxruntime it is a MatMulInteger of uint8 and int8. OpenVINO computes that in float32;
        what it maps to its int8 kernels, where the processor has them, is a product of what
        DequantizeLinear makes of uint8 and int8.

        Args:
            levels: floats [..., columns], which are rounded here, at most 256 levels.
            lowest: the lowest of them.
            bits: uint8 [rows, ceil(columns / 8)], as of `layers.pack`.
            columns: count of weights in a row.
        """
        one, zero = self.constant(1), self.constant(-lowest, np.uint8)
        unsigned = self.op("QuantizeLinear", levels, one, zero)
        weight = self.op("Transpose", self.signs(bits, columns, np.int8), perm=[1, 0])
        if self.engine == "onnxruntime":
            sums = self.op("MatMulInteger", unsigned, weight, zero)
            return self.op("Cast", sums, to=TensorProto.FLOAT)
        back = self.op("DequantizeLinear", unsigned, one, zero)
        weight = self.op("DequantizeLinear", weight, one, self.constant(0, np.int8))
        return self.op("MatMul", back, weight)

    def signs(self, bits: Tensor, columns: int, dtype: Any, rows: str | None = None) -> str:
        """Numbers -1 and 1 from a table of bits: all [rows, columns], or [..., columns] of some.

        Stored as bits, bytes index a table of signs. That is an expression of constants, unless
        some rows are asked for, and engines evaluate it when they open the file.

        Args:
            bits: uint8 [rows, ceil(columns / 8)], as of `layers.pack`.
            columns: count of weights in a row.
            dtype: of the numbers, float32 or int8.
            rows: an index of its rows, of any shape; None for all in order.
        """
        table = bits.cpu().numpy()
        if rows is None and self.weights == "int8":
            return self.constant(_unpacked(table)[:, :columns], dtype)
        found = self.constant(table, np.uint8)
        if rows is not None:
            found = self.op("Gather", found, rows)
        byte = np.arange(256, dtype=np.uint8)[:, None]
        eight = self.constant(_unpacked(byte), dtype)
        numbers = self.op("Gather", eight, self.op("Cast", found, to=TensorProto.INT32))
        # The last two axes become one, whatever is before them.
        leading = self.op("Shape", found, start=0, end=-1)
        shape = self.op("Concat", leading, self.integers(-(-columns // 8) * 8), axis=0)
        whole = self.op("Reshape", numbers, shape)
        ends = (self.integers(0), self.integers(columns), self.integers(-1))
        return whole if columns % 8 == 0 else self.op("Slice", whole, *ends)

    def sum(self, values: list[str]) -> str:
        """The sum of one or more values, added up in their order."""
        total, *others = values
        for other in others:
            total = self.op("Add", total, other)
        return total

    def parts(self, value: str, count: int, size: int) -> list[str]:
        """A value cut into parts of one size along its last axis."""
        if count == 1:
            return [value]
        outputs = [f"Split_{len(self._nodes)}_{part}" for part in range(count)]
        sizes = self.integers(*[size] * count)
        self._nodes.append(helper.make_node("Split", [value, sizes], outputs, axis=-1))
        return outputs


def _unpacked(table: np.ndarray) -> np.ndarray:
    """Numbers -1 and 1, int8, from bits."""
    return np.unpackbits(table, axis=1).astype(np.int8) * 2 - 1
