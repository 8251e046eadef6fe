"""ONNX graphs, run by onnxruntime itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from bebert_ray.errors import UserError  # noqa: E402
from bebert_ray.packed import BebertForSequenceClassification, packed_model  # noqa: E402
from bebert_ray.packed.onnx import build_onnx, export_onnx  # noqa: E402

Member = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]


def run(path: Path, batch: Batch) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    return logits


@torch.no_grad()
def logits_of(model: Any, batch: Batch) -> np.ndarray:
    return model(**batch).logits.numpy()


def packed(member: Member, count: int, **options: int) -> BebertForSequenceClassification:
    members = [member(seed, **options) for seed in range(count)]
    labels = ("a", "b") if options.get("labels", 2) == 2 else None
    return packed_model(members, [1.0, 0.5, 0.0][:count], labels, ["text"])


@pytest.mark.parametrize("weights", ["bits", "nbits"])
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
    ],
    ids=str,
)
def test_onnxruntime_gives_the_same_logits(
    member: Member,
    batch: Batch,
    tmp_path: Path,
    count: int,
    options: dict[str, int],
    weights: Any,
) -> None:
    model = packed(member, count, **options)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, weights)
    onnx.checker.check_model(path)
    np.testing.assert_allclose(run(path, batch), logits_of(model, batch), atol=1e-4, rtol=0)
    longer = {name: torch.cat([tensor, tensor], 1)[:2] for name, tensor in batch.items()}
    np.testing.assert_allclose(run(path, longer), logits_of(model, longer), atol=1e-4, rtol=0)


def test_what_gelu_makes_of_numbers_far_below_0_has_a_sign(
    member: Member, batch: Batch, tmp_path: Path
) -> None:
    one = member(bits=1)
    with torch.no_grad():
        one.bert.encoder.layer[0].intermediate.dense.bias[::2] = -20.0
    model = packed_model([one], [1.0], ("a", "b"), ["text"])
    binarized: list[Tensor] = []
    quantizer = model.members[0].bert.encoder.layer[0].output.dense.input_quantizer
    quantizer.register_forward_hook(lambda _, __, levels: binarized.append(levels))
    export_onnx(model, tmp_path / "model.onnx")
    logits = run(tmp_path / "model.onnx", batch)
    np.testing.assert_allclose(logits, logits_of(model, batch), atol=1e-4, rtol=0)
    assert (binarized[0][..., ::2] < 0).all(), "torch gives +0 with AVX2, unless it is told not to"


def test_regression(member: Member, batch: Batch, tmp_path: Path) -> None:
    model = packed(member, 2, labels=1)
    export_onnx(model, tmp_path / "model.onnx")
    logits = run(tmp_path / "model.onnx", batch)
    np.testing.assert_allclose(logits, logits_of(model, batch), atol=1e-4, rtol=0)


def test_weights_are_integers(member: Member) -> None:
    model = packed(member, 1)
    table = model.members[0].bert.encoder.layer[0].intermediate.dense.bits.signs
    sizes = {}
    for weights in ("bits", "nbits"):
        graph = build_onnx(model, weights).graph
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        integers = [t for t in tensors.values() if t.dtype == np.uint8]
        assert len(integers) == 2 * (1 + 6 * 2 + 1), "both halves of words, 6 linears and pooler"
        sizes[weights] = sum(t.nbytes for t in integers)
        floats = [t.shape for t in tensors.values() if t.dtype == np.float32 and t.size > 512]
        assert sorted(floats) == [(64, 32), (256, 8)], "positions, and what bytes stand for"
        if weights == "bits":
            assert any(np.array_equal(t, table[0]) for t in integers)
    assert sizes["bits"] < sizes["nbits"]


def test_a_member_without_a_say_is_left_out(member: Member) -> None:
    two, three = (len(build_onnx(packed(member, n), "bits").graph.node) for n in (2, 3))
    assert two == three


def test_an_unknown_activation_function_is_refused(member: Member, tmp_path: Path) -> None:
    model = packed(member, 1)
    model.members[0].bert.encoder.layer[1].intermediate.intermediate_act_fn = nn.SiLU()
    with pytest.raises(UserError, match="activation function SiLU"):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(packed(member, 1), tmp_path / "none" / "model.onnx")
