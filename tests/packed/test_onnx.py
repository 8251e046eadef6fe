"""ONNX graphs, run by onnxruntime itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertForSequenceClassification

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from bebert_ray.errors import UserError  # noqa: E402
from bebert_ray.nn.quantizers import activation_quantizer  # noqa: E402
from bebert_ray.packed import (  # noqa: E402
    BebertForSequenceClassification,
    integers,
    packed_model,
)
from bebert_ray.packed.engines import product  # noqa: E402
from bebert_ray.packed.layers import pack  # noqa: E402
from bebert_ray.packed.onnx import build_onnx, export_onnx  # noqa: E402
from bebert_ray.packed.onnx_graph import Graph  # noqa: E402
from bebert_ray.packed.onnx_quantizers import levels  # noqa: E402

Member = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]


def onnxruntime_of(graph: bytes) -> Callable[[Batch], np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {n: tensor.numpy() for n, tensor in batch.items()})[0]


def openvino_of(graph: bytes) -> Callable[[Batch], np.ndarray]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    # By default OpenVINO multiplies floats in bfloat16 where the processor does.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    return lambda batch: compiled({n: tensor.numpy() for n, tensor in batch.items()})[0]


ENGINES = {"onnxruntime": onnxruntime_of, "openvino": openvino_of}


def run(path: Path, batch: Batch, engine: str = "onnxruntime") -> np.ndarray:
    return ENGINES[engine](path.read_bytes())(batch)


@torch.no_grad()
def logits_of(model: Any, batch: Batch) -> np.ndarray:
    return model(**batch).logits.numpy()


def packed(member: Member, count: int, **options: Any) -> BebertForSequenceClassification:
    members = [member(seed, **options) for seed in range(count)]
    labels = ("a", "b") if options.get("labels", 2) == 2 else None
    return packed_model(members, [1.0, 0.5, 0.0][:count], labels, ["text"])


@given(
    st.integers(1, 20),
    st.integers(1, 100),
    st.integers(1, 30),
    st.sampled_from([8, 4, 2, 1]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=30)
@pytest.mark.parametrize("engine", ENGINES)
def test_sums_of_integers_are_equal_in_all_engines(
    engine: Any, tokens: int, columns: int, rows: int, bits: int, symmetric: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    quantizer = activation_quantizer(bits, symmetric)
    ends = torch.tensor([-3.0, 3.0]) if bits == 8 else torch.tensor(0.37)
    next(quantizer.parameters()).data.copy_(ends)
    x = torch.randn(tokens, columns)
    x[0] = 99.0 if seed % 2 else -99.0
    signs = torch.rand(rows, columns) < 0.5
    signs[0] = True
    made = integers.quantizer(quantizer)
    expected = made.quantize(x).levels.long() @ (signs.long() * 2 - 1).T
    times = product((signs * 2 - 1).to(torch.int8), torch.ones(rows), made.lowest, made.highest)
    assert torch.equal(times(made.quantize(x).levels).long(), expected)
    g = Graph(engine, "bits")
    found = levels(g, "input_ids", quantizer)
    sums = g.integer_product(found.unrounded, made.lowest, pack(signs), columns)
    model = g.finish(("input_ids",), sums, rows)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    given = ENGINES[engine](model.SerializeToString())({"input_ids": x})
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {"bits": 8}),
        (3, {"bits": 8}),
        (2, {"bits": 4}),
        (1, {"bits": 2}),
        (2, {"bits": 1}),
        (1, {"bits": 1, "elastic": True, "softmax": True}),
        (1, {"bits": 1, "two_sets": True}),
        (1, {"bits": 12}),
    ],
    ids=str,
)
def test_engines_give_the_same_logits(
    member: Member,
    batch: Batch,
    tmp_path: Path,
    count: int,
    options: dict[str, Any],
    engine: Any,
) -> None:
    model = packed(member, count, **options)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, engine)
    onnx.checker.check_model(path)
    run = ENGINES[engine](path.read_bytes())
    np.testing.assert_allclose(run(batch), logits_of(model, batch), atol=1e-4, rtol=0)
    longer = {name: torch.cat([tensor, tensor], 1)[:2] for name, tensor in batch.items()}
    np.testing.assert_allclose(run(longer), logits_of(model, longer), atol=1e-4, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_gelu_makes_of_numbers_far_below_0_has_a_sign(
    member: Member, batch: Batch, tmp_path: Path, engine: Any
) -> None:
    one = member(bits=1)
    with torch.no_grad():
        one.bert.encoder.layer[0].intermediate.dense.bias[::2] = -20.0
    model = packed_model([one], [1.0], ("a", "b"), ["text"])
    activated: list[Tensor] = []
    output = model.members[0].bert.encoder.layer[0].output.dense
    output.register_forward_pre_hook(lambda _, inputs: activated.append(inputs[0]))
    export_onnx(model, tmp_path / "model.onnx", engine)
    logits = run(tmp_path / "model.onnx", batch, engine)
    np.testing.assert_allclose(logits, logits_of(model, batch), atol=1e-4, rtol=0)
    below = activated[0][..., ::2]
    assert below.signbit().all(), "torch gives +0 with AVX2, unless it is told not to"


def test_regression(member: Member, batch: Batch, tmp_path: Path) -> None:
    model = packed(member, 2, labels=1)
    export_onnx(model, tmp_path / "model.onnx")
    logits = run(tmp_path / "model.onnx", batch)
    np.testing.assert_allclose(logits, logits_of(model, batch), atol=1e-4, rtol=0)


def test_weights_are_integers(member: Member) -> None:
    model = packed(member, 1)
    linear = model.members[0].bert.encoder.layer[0].intermediate.dense
    stacked = linear.bits.signs.flatten(0, 1).numpy()
    for weights, dtype in (("bits", np.uint8), ("int8", np.int8)):
        graph = build_onnx(model, weights=weights).graph
        tensors = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
        integers = [t for t in tensors if t.dtype == dtype and t.size > 1]
        tables = 6 * 2 + 1  # linears of two layers and the pooler, both halves in one
        words = 2 * (weights == "bits")
        eight = weights == "bits"  # what bytes stand for, int8
        assert len(integers) == tables + words, weights
        floats = [t.shape for t in tensors if t.dtype == np.float32 and t.size > 512]
        assert sorted(floats) == [(64, 32), (256, 8)], "positions, and what bytes of words are"
        assert sum(t.shape == (256, 8) and t.dtype == np.int8 for t in tensors) == eight
        numbers = np.unpackbits(stacked, axis=1).astype(np.int8) * 2 - 1
        wanted = stacked if weights == "bits" else numbers
        assert any(np.array_equal(t, wanted) for t in integers)


def test_products_are_of_unsigned_integers_with_static_scales(member: Member) -> None:
    nodes = build_onnx(packed(member, 1, bits=4)).graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert kinds["MatMulInteger"] == kinds["QuantizeLinear"] == 6 * 2 + 1
    assert kinds["ReduceMax"] == 0, "a learned step is a constant"
    assert not any(node.domain for node in nodes)
    nodes = build_onnx(packed(member, 1, bits=4), "openvino").graph.node
    assert Counter(node.op_type for node in nodes)["DequantizeLinear"] == 2 * (6 * 2 + 1)


def test_a_member_without_a_say_is_left_out(member: Member) -> None:
    two, three = (len(build_onnx(packed(member, n)).graph.node) for n in (2, 3))
    assert two == three


def test_an_unknown_activation_function_is_refused(member: Member, tmp_path: Path) -> None:
    model = packed(member, 1)
    model.members[0].bert.encoder.layer[1].intermediate.intermediate_act_fn = nn.SiLU()
    with pytest.raises(UserError, match="activation function SiLU"):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(packed(member, 1), tmp_path / "none" / "model.onnx")
