"""A packed ensemble as an ONNX graph, for onnxruntime, OpenVINO and other engines.

Binary weights stay bits, products are those of integers, exact as in torch, and the output is that
of `BebertForSequenceClassification`. Needs the package `onnx` (extra `onnx`).

What engines round otherwise is LayerNorm, softmax and GELU, and, where each token has its own scale
of values (8 bits, and BiBERT's sign), the product of these with probabilities. An activation on the
border between two levels can so get the other level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from bebert_ray.boosting.vote import shares
from bebert_ray.errors import UserError
from bebert_ray.nn.binarize import SignedGelu
from bebert_ray.nn.quantizers import SignQuantizer
from bebert_ray.packed.engines import fits
from bebert_ray.packed.model import BebertForSequenceClassification, threshold_of
from bebert_ray.packed.onnx_graph import Engine, Graph, WeightFormat
from bebert_ray.packed.onnx_quantizers import Levels, levels
from bebert_ray.storage.disk import write_file

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Inputs = dict[str, str]
"""The values that stand for the inputs, by name: the inputs themselves, or some rows of them."""
ACTIVATIONS = {"GELUActivation": "Gelu", "SignedGelu": "Gelu", "ReLU": "Relu"}
"""Operators of ONNX by the class of an activation function."""


def export_onnx(
    model: BebertForSequenceClassification,
    path: Path,
    engine: Engine = "onnxruntime",
    weights: WeightFormat = "bits",
    cascade: bool = False,
) -> None:
    """Write a packed model as ONNX: int64 inputs [batch, tokens], float output [batch, K].

    Args:
        model: the ensemble; members of alpha 0 are left out.
        path: the file.
        engine: which the products are written for, see `Graph.integer_product`. All operators are
            plain ONNX.
        weights: `bits`: one bit a weight, which an engine unpacks to a byte when it opens the file;
            `int8`: a byte a weight, for engines that would unpack bits again and again.
        cascade: whether a member is asked only where those before it are unsure.

    Raises:
        UserError: a cascade is asked for and the model has none, the FFN has an activation function
            without a counterpart, or the file cannot be written.
    """
    try:
        write_file(path, build_onnx(model, engine, weights, cascade).SerializeToString())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@torch.no_grad()
def build_onnx(
    model: BebertForSequenceClassification,
    engine: Engine = "onnxruntime",
    weights: WeightFormat = "bits",
    cascade: bool = False,
) -> onnx.ModelProto:
    """The graph; see `export_onnx`."""
    g, labels = Graph(engine, weights), model.num_labels
    share = shares(model.config.alphas)
    counted = np.flatnonzero(share).tolist()
    inputs: Inputs = {name: name for name in INPUTS}
    if cascade:
        threshold = threshold_of(model.config)
        members = [model.members[index] for index in counted]
        output = _cascaded(g, members, inputs, share[counted], threshold)
    else:
        logits = [_member(g, model.members[index], inputs) for index in counted]
        output = _combined(g, logits, share[counted], labels)
    return g.finish(INPUTS, output, labels)


def _cascaded(
    g: Graph, members: list[Any], inputs: Inputs, share: np.ndarray, threshold: float
) -> str:
    """The vote of the members that were asked, see `BebertForSequenceClassification`."""
    rows, output, logits = "", "", [_member(g, members[0], inputs)]
    for count, member in enumerate(members, start=1):
        if count > 1:
            logits.append(_member(g, member, inputs))
        vote = _combined(g, logits, share[:count] / share[:count].sum(), 0)
        places = g.op("Unsqueeze", rows, g.integers(1)) if rows else ""
        output = g.op("ScatterND", output, places, vote) if rows else vote
        if count < len(members):
            sure = g.op("ReduceMax", g.op("Softmax", vote, axis=-1), g.integers(1), keepdims=0)
            unsure = g.op("NonZero", g.op("Less", sure, g.constant(threshold)))
            unsure = g.op("Squeeze", unsure, g.integers(0))
            rows = g.op("Gather", rows, unsure) if rows else unsure
            inputs = {name: g.op("Gather", value, unsure) for name, value in inputs.items()}
            logits = [g.op("Gather", each, unsure) for each in logits]
    return output


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


def _member(g: Graph, member: Any, inputs: Inputs) -> str:
    bert = member.bert
    x = _embeddings(g, bert.embeddings, inputs)
    # [batch, 1, 1, tokens]: over heads and queries.
    padding = g.op("Equal", inputs["attention_mask"], g.integers(0))
    padding = g.op("Unsqueeze", padding, g.integers(1, 2))
    for layer in bert.encoder.layer:
        context = _attention(g, x, layer.attention.self, padding)
        attended = _linear(g, context, layer.attention.output.dense)
        x = _norm(g, g.op("Add", attended, x), layer.attention.output.LayerNorm)
        hidden = _linear(g, x, layer.intermediate.dense)
        if not _keeps_sign_alone(layer):
            hidden = _activation(g, hidden, layer.intermediate)
        x = _norm(g, g.op("Add", _linear(g, hidden, layer.output.dense), x), layer.output.LayerNorm)
    first = g.op("Squeeze", g.op("Gather", x, g.integers(0), axis=1), g.integers(1))
    pooled = g.op("Tanh", _linear(g, first, bert.pooler.dense))
    return _linear(g, pooled, member.classifier)


def _embeddings(g: Graph, embeddings: Any, inputs: Inputs) -> str:
    words, ids = embeddings.word_embeddings.bits, inputs["input_ids"]
    found = []
    for bits, scales in zip(words.signs, words.scales, strict=True):
        signs = g.signs(bits, words.columns, np.float32, ids)
        found.append(g.op("Mul", signs, g.op("Gather", g.constant(scales), ids)))
    kinds = g.constant(embeddings.token_type_embeddings.weight)
    kinds = g.op("Gather", kinds, inputs["token_type_ids"])
    count = g.op("Shape", ids, start=1, end=2)
    table = g.constant(embeddings.position_embeddings.weight)
    positions = g.op("Slice", table, g.integers(0), count, g.integers(0))
    total = g.op("Add", g.op("Add", g.sum(found), kinds), positions)
    return _norm(g, total, embeddings.LayerNorm)


def _attention(g: Graph, x: str, attention: Any, padding: str) -> str:
    """See `attention.attend`."""
    size, quantizers = attention.attention_head_size, attention.quantizers
    heads = g.integers(0, 0, attention.num_attention_heads, size)

    def operand(name: str) -> Levels:
        projected = g.op("Reshape", _linear(g, x, getattr(attention, name)), heads)
        by_head = g.op("Transpose", projected, perm=[0, 2, 1, 3])
        return levels(g, by_head, getattr(quantizers, name))

    def turned(value: str) -> str:
        return g.op("Transpose", value, perm=[0, 1, 3, 2])

    query, key, value = operand("query"), operand("key"), operand("value")
    sums = g.op("MatMul", query.floats(g), turned(key.floats(g)))
    if quantizers.softmax:
        scaling = size**-0.5
        if query.made.scale is not None and key.made.scale is not None:
            scores = g.op("Mul", sums, g.constant(query.made.scale * key.made.scale * scaling))
        else:
            assert query.scale is not None and key.scale is not None
            scores = g.op("Mul", sums, g.op("Mul", query.scale, g.constant(scaling)))
            scores = g.op("Mul", scores, turned(key.scale))
        masked = g.op("Where", padding, g.constant(np.finfo(np.float32).min), scores)
        probs = levels(g, g.op("Softmax", masked, axis=-1), quantizers.probs)
    else:
        probs = levels(g, sums, quantizers.probs)
    if quantizers.probs.bits == 1:
        kept = g.op("Where", padding, g.constant(0), probs.unrounded)
        probs = probs._replace(unrounded=kept)
    if value.made.scale is not None and probs.made.scale is not None:
        context = g.op("MatMul", probs.floats(g), value.floats(g))
        context = g.op("Mul", context, g.constant(value.made.scale * probs.made.scale))
    else:
        context = g.op("MatMul", probs.values(g), value.values(g))
    context = g.op("Transpose", context, perm=[0, 2, 1, 3])
    return g.op("Reshape", context, g.integers(0, 0, attention.all_head_size))


def _linear(g: Graph, x: str, layer: Any) -> str:
    if not hasattr(layer, "binary_weights"):
        return g.op("Add", g.op("MatMul", x, g.constant(layer.weight.T)), g.constant(layer.bias))
    prepared, columns = layer.prepared(), layer.bits.columns
    found, bits = levels(g, x, layer.input_quantizer), layer.bits.signs.flatten(0, 1)
    if fits(found.made.lowest, found.made.highest):
        sums = g.integer_product(found.unrounded, found.made.lowest, bits, columns)
    else:
        weight = g.op("Transpose", g.signs(bits, columns, np.float32), perm=[1, 0])
        sums = g.op("MatMul", found.floats(g), weight)
    scaled = g.op("Mul", sums, g.constant(prepared.scales))
    y = g.sum(g.parts(scaled, len(layer.bits.signs), len(layer.bias)))
    if found.scale is not None:
        y = g.op("Mul", y, found.scale)
    if found.offset is not None:
        y = g.op("Add", y, g.op("Mul", found.offset, g.constant(prepared.offset)))
    return g.op("Add", y, g.constant(layer.bias))


def _norm(g: Graph, x: str, norm: Any) -> str:
    weights = g.constant(norm.weight), g.constant(norm.bias)
    return g.op("LayerNormalization", x, *weights, axis=-1, epsilon=norm.eps)


def _keeps_sign_alone(layer: Any) -> bool:
    """Whether nothing but the sign of GELU's output is used, which is that of its input.

    Far below 0 the output is -0, whose sign some engines lose.
    """
    quantizer = layer.output.dense.input_quantizer
    signed = isinstance(layer.intermediate.intermediate_act_fn, SignedGelu)
    return signed and isinstance(quantizer, SignQuantizer) and not quantizer.scaled


def _activation(g: Graph, x: str, intermediate: Any) -> str:
    name = type(intermediate.intermediate_act_fn).__name__
    if name not in ACTIVATIONS:
        raise UserError(f"the activation function {name} has no counterpart in the ONNX export")
    return g.op(ACTIVATIONS[name], x)
