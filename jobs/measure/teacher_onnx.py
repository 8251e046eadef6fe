"""The teacher as ONNX, in 32 and in 8 bits: what packed models are measured against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from bebert_ray.packed.onnx_graph import Graph

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MATMUL = ["MatMul"]


def write_teacher(model: Any, directory: Path, batches: list[dict[str, np.ndarray]]) -> None:
    """Write a BERT classifier as `fp32.onnx`, `onnxruntime.onnx` and `openvino.onnx`, both in int8.

    onnxruntime's has scales of activations for each batch, made as it runs (`quantize_dynamic`);
    OpenVINO's int8 kernels take fixed ones (`quantize_static`).

    Args:
        model: a `BertForSequenceClassification`.
        directory: for the files.
        batches: what fixed scales are made from.
    """
    whole = directory / "fp32.onnx"
    onnx.save(full_precision(model), whole)
    quantize_dynamic(
        whole, directory / "onnxruntime.onnx", MATMUL, per_channel=True, weight_type=QuantType.QInt8
    )
    quantize_static(
        whole,
        directory / "openvino.onnx",
        _Batches(batches),
        QuantFormat.QDQ,
        MATMUL,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Batches(CalibrationDataReader):
    def __init__(self, batches: list[dict[str, np.ndarray]]):
        self._left: Iterator[dict[str, np.ndarray]] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


@torch.no_grad()
def full_precision(model: Any) -> onnx.ModelProto:
    """A BERT classifier with GELU as an ONNX graph of floats."""
    g, bert = Graph("onnxruntime", "bits"), model.bert
    tables = bert.embeddings
    words = g.op("Gather", g.constant(tables.word_embeddings.weight), "input_ids")
    kinds = g.op("Gather", g.constant(tables.token_type_embeddings.weight), "token_type_ids")
    count = g.op("Shape", "input_ids", start=1, end=2)
    places = g.constant(tables.position_embeddings.weight)
    positions = g.op("Slice", places, g.integers(0), count, g.integers(0))
    x = _norm(g, g.op("Add", g.op("Add", words, kinds), positions), tables.LayerNorm)
    padding = g.op("Unsqueeze", g.op("Equal", "attention_mask", g.integers(0)), g.integers(1, 2))
    for layer in bert.encoder.layer:
        context = _attention(g, x, layer.attention.self, padding)
        attended = _linear(g, context, layer.attention.output.dense)
        x = _norm(g, g.op("Add", attended, x), layer.attention.output.LayerNorm)
        hidden = g.op("Gelu", _linear(g, x, layer.intermediate.dense))
        x = _norm(g, g.op("Add", _linear(g, hidden, layer.output.dense), x), layer.output.LayerNorm)
    first = g.op("Squeeze", g.op("Gather", x, g.integers(0), axis=1), g.integers(1))
    pooled = g.op("Tanh", _linear(g, first, bert.pooler.dense))
    return g.finish(INPUTS, _linear(g, pooled, model.classifier), model.config.num_labels)


def _attention(g: Graph, x: str, attention: Any, padding: str) -> str:
    size = attention.attention_head_size
    heads = g.integers(0, 0, attention.num_attention_heads, size)

    def operand(name: str) -> str:
        projected = g.op("Reshape", _linear(g, x, getattr(attention, name)), heads)
        return g.op("Transpose", projected, perm=[0, 2, 1, 3])

    query, key, value = (operand(name) for name in ("query", "key", "value"))
    scores = g.op("MatMul", query, g.op("Transpose", key, perm=[0, 1, 3, 2]))
    scores = g.op("Mul", scores, g.constant(size**-0.5))
    masked = g.op("Where", padding, g.constant(np.finfo(np.float32).min), scores)
    context = g.op("MatMul", g.op("Softmax", masked, axis=-1), value)
    context = g.op("Transpose", context, perm=[0, 2, 1, 3])
    return g.op("Reshape", context, g.integers(0, 0, attention.all_head_size))


def _linear(g: Graph, x: str, layer: Any) -> str:
    return g.op("Add", g.op("MatMul", x, g.constant(layer.weight.T)), g.constant(layer.bias))


def _norm(g: Graph, x: str, norm: Any) -> str:
    weights = g.constant(norm.weight), g.constant(norm.bias)
    return g.op("LayerNormalization", x, *weights, axis=-1, epsilon=norm.eps)
