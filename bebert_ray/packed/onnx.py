"""A packed ensemble as an ONNX graph, for onnxruntime and other engines.

Binary weights stay integers, activations are quantized by plain operators, and the output is that
of `BebertForSequenceClassification`. Needs the package `onnx` (extra `onnx`).

Engines sum in another order than torch. An activation on the border between two levels can so get
the other level. The logits of a trained six-layer model differ by some thousandths, and on MRPC by
0.05 at most; those of torch with AVX2 and with AVX-512 differ by 0.008. Nearly tied predictions can
change: 2 of 408 did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from bebert_ray.boosting.vote import shares
from bebert_ray.errors import UserError
from bebert_ray.packed.model import BebertForSequenceClassification
from bebert_ray.packed.onnx_graph import Graph, WeightFormat, quantized
from bebert_ray.storage.disk import write_file

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ACTIVATIONS = {"GELUActivation": "Gelu", "SignedGelu": "Gelu", "ReLU": "Relu"}
"""Operators of ONNX by the class of an activation function."""


def export_onnx(
    model: BebertForSequenceClassification, path: Path, weights: WeightFormat = "bits"
) -> None:
    """Write a packed model as ONNX: int64 inputs [batch, tokens], float output [batch, K].

    Args:
        model: the ensemble; members of alpha 0 are left out.
        path: the file.
        weights: `bits`: one bit a weight, in plain ONNX; an engine makes floats of them when it
            opens the file. `nbits`: two bits, for onnxruntime from 1.23 on, which keeps them so.

    Raises:
        UserError: the FFN has an activation function without a counterpart, or the file cannot be
            written.
    """
    try:
        write_file(path, build_onnx(model, weights).SerializeToString())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@torch.no_grad()
def build_onnx(model: BebertForSequenceClassification, weights: WeightFormat) -> onnx.ModelProto:
    """The graph; see `export_onnx`."""
    g, labels = Graph(weights), model.num_labels
    share = shares(model.config.alphas)
    counted = np.flatnonzero(share).tolist()
    logits = [_member(g, model.members[index]) for index in counted]
    output = _combined(g, logits, share[counted], labels)
    return g.finish(INPUTS, output, labels)


def _combined(g: Graph, logits: list[str], share: np.ndarray, labels: int) -> str:
    """The vote, see `torch_vote.combine_logits`."""
    if len(logits) == 1:
        return logits[0]
    first = g.integers(0)
    stacked = g.op("Concat", *(g.op("Unsqueeze", each, first) for each in logits), axis=0)
    weights = share[:, None, None]
    if labels == 1:
        return g.op("ReduceSum", g.op("Mul", stacked, g.constant(weights)), first, keepdims=0)
    terms = g.op("Add", g.op("LogSoftmax", stacked, axis=-1), g.constant(np.log(weights)))
    return g.op("ReduceLogSumExp", terms, first, keepdims=0)


def _member(g: Graph, member: Any) -> str:
    bert = member.bert
    x = _embeddings(g, bert.embeddings)
    # [batch, 1, 1, tokens]: over heads and queries.
    padding = g.op("Equal", "attention_mask", g.integers(0))
    padding = g.op("Unsqueeze", padding, g.integers(1, 2))
    for layer in bert.encoder.layer:
        context = _attention(g, x, layer.attention.self, padding)
        attended = _linear(g, context, layer.attention.output.dense)
        x = _norm(g, g.op("Add", attended, x), layer.attention.output.LayerNorm)
        hidden = _activation(g, _linear(g, x, layer.intermediate.dense), layer.intermediate)
        x = _norm(g, g.op("Add", _linear(g, hidden, layer.output.dense), x), layer.output.LayerNorm)
    first = g.op("Squeeze", g.op("Gather", x, g.integers(0), axis=1), g.integers(1))
    pooled = g.op("Tanh", _linear(g, first, bert.pooler.dense))
    return _linear(g, pooled, member.classifier)


def _embeddings(g: Graph, embeddings: Any) -> str:
    words = embeddings.word_embeddings
    found = []
    for signs, scales in words.binary_weights():
        scale = g.op("Gather", g.constant(scales), "input_ids")
        found.append(g.op("Mul", g.signs(signs, "input_ids"), scale))
    kinds = g.op("Gather", g.constant(embeddings.token_type_embeddings.weight), "token_type_ids")
    count = g.op("Shape", "input_ids", start=1, end=2)
    table = g.constant(embeddings.position_embeddings.weight)
    positions = g.op("Slice", table, g.integers(0), count, g.integers(0))
    total = g.op("Add", g.op("Add", g.sum(found), kinds), positions)
    return _norm(g, total, embeddings.LayerNorm)


def _attention(g: Graph, x: str, attention: Any, padding: str) -> str:
    """See `nn.attention.scores_attention`."""
    size, quantizers = attention.attention_head_size, attention.quantizers
    heads = g.integers(0, 0, attention.num_attention_heads, size)

    def operand(name: str) -> str:
        projected = g.op("Reshape", _linear(g, x, getattr(attention, name)), heads)
        by_head = g.op("Transpose", projected, perm=[0, 2, 1, 3])
        return quantized(g, by_head, getattr(quantizers, name))

    def product(query: str, key: str) -> str:
        return g.op("MatMul", query, g.op("Transpose", key, perm=[0, 1, 3, 2]))

    query, key, value = operand("query"), operand("key"), operand("value")
    if quantizers.softmax:
        scores = g.op("Mul", product(query, key), g.constant(size**-0.5))
        lowest = g.constant(np.finfo(np.float32).min)
        masked = g.op("Where", padding, lowest, scores)
        probs = quantized(g, g.op("Softmax", masked, axis=-1), quantizers.probs)
    else:
        agreement = product(g.op("Sign", query), g.op("Sign", key))
        probs = quantized(g, agreement, quantizers.probs)
    if quantizers.probs.bits == 1:
        probs = g.op("Where", padding, g.constant(0), probs)
    context = g.op("Transpose", g.op("MatMul", probs, value), perm=[0, 2, 1, 3])
    return g.op("Reshape", context, g.integers(0, 0, attention.all_head_size))


def _linear(g: Graph, x: str, layer: Any) -> str:
    if hasattr(layer, "binary_weights"):
        x = quantized(g, x, layer.input_quantizer)
        product = g.binary_product(x, layer.binary_weights())
    else:
        product = g.op("MatMul", x, g.constant(layer.weight.T))
    return g.op("Add", product, g.constant(layer.bias))


def _norm(g: Graph, x: str, norm: Any) -> str:
    weights = g.constant(norm.weight), g.constant(norm.bias)
    return g.op("LayerNormalization", x, *weights, axis=-1, epsilon=norm.eps)


def _activation(g: Graph, x: str, intermediate: Any) -> str:
    name = type(intermediate.intermediate_act_fn).__name__
    if name not in ACTIVATIONS:
        raise UserError(f"the activation function {name} has no counterpart in the ONNX export")
    return g.op(ACTIVATIONS[name], x)
