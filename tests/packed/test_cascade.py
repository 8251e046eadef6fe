"""Members that are asked one after another, in torch, in pipelines and as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, BertTokenizer, pipeline

from bebert_ray.boosting.cascade import answers
from bebert_ray.errors import UserError
from bebert_ray.packed import BebertForSequenceClassification, load_model, packed_model

Batch = dict[str, Tensor]
ALPHAS = [0.5, 1.5, 0.0, 0.25]


@pytest.fixture
def model(member: Callable[..., BertForSequenceClassification]) -> BebertForSequenceClassification:
    made = packed_model([member(seed, 4) for seed in range(4)], ALPHAS, ("bad", "good"), ["text"])
    made.config.cascade_settings = {"threshold": 0.5, "members": 1.25, "loss": 0.0}
    return made


@torch.no_grad()
def every(model: BebertForSequenceClassification, batch: Batch) -> np.ndarray:
    return model(**batch).member_logits.numpy().transpose(1, 0, 2)


def thresholds(model: BebertForSequenceClassification, batch: Batch) -> list[float]:
    """One at which each number of members is asked for some text."""
    sure = answers(every(model, batch), ALPHAS, 0.0)[0].max(1)
    return [0.0, float(np.median(sure)) + 1e-6, 1.0]


@pytest.mark.parametrize("place", range(3))
@torch.no_grad()
def test_a_text_has_the_logits_of_the_members_that_were_asked(
    model: BebertForSequenceClassification, batch: Batch, place: int
) -> None:
    logits = every(model, batch)
    threshold = thresholds(model, batch)[place]
    model.config.cascade_settings["threshold"] = threshold
    output = model(**batch, cascade=True)
    expected, asked = answers(logits, ALPHAS, threshold)
    np.testing.assert_allclose(output.logits.softmax(-1), expected, atol=1e-6)
    known = ~output.member_logits.isnan().any(-1)
    assert known.sum(1).tolist() == asked.tolist()
    np.testing.assert_allclose(
        output.member_logits[known], logits.transpose(1, 0, 2)[known], atol=1e-6
    )
    assert asked.min() == (3 if place == 2 else 1)
    assert asked.max() == (1 if place == 0 else 3)


def test_it_is_off_unless_asked_for(
    model: BebertForSequenceClassification, tokenizer: BertTokenizer, tmp_path: Path, batch: Batch
) -> None:
    model.config.cascade_settings["threshold"] = 0.0
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert not np.isnan(every(load_model(tmp_path), batch)).any()
    for cascade in (False, True):
        classify = pipeline(
            "text-classification", str(tmp_path), model_kwargs={"cascade": cascade}, top_k=None
        )
        inputs = dict(tokenizer("the film is good", return_tensors="pt"))
        with torch.no_grad():
            expected = model(**inputs, cascade=cascade).logits.softmax(-1)[0]
        answer = {each["label"]: each["score"] for each in classify(["the film is good"])[0]}
        assert answer["good"] == pytest.approx(float(expected[1]), abs=1e-6)
    assert "1.25 members" in str(load_model(tmp_path).summary())


def test_a_model_without_one_refuses(
    model: BebertForSequenceClassification, tmp_path: Path, batch: Batch
) -> None:
    model.config.cascade_settings = None
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no cascade"):
        BebertForSequenceClassification.from_pretrained(tmp_path, cascade=True)
    with pytest.raises(UserError, match="has no cascade"):
        model(**batch, cascade=True)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_ask_the_same_members(
    model: BebertForSequenceClassification, batch: Batch, tmp_path: Path, engine: Any, place: int
) -> None:
    pytest.importorskip("onnx")
    given = pytest.importorskip(engine)
    from bebert_ray.packed.onnx import export_onnx

    model.config.cascade_settings["threshold"] = thresholds(model, batch)[place]
    path = tmp_path / "model.onnx"
    export_onnx(model, path, engine, cascade=True)
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    if engine == "onnxruntime":
        session = given.InferenceSession(path, providers=["CPUExecutionProvider"])
        [logits] = session.run(None, arrays)
    else:
        core = given.Core()
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        logits = core.compile_model(core.read_model(path), "CPU", hint)(arrays)[0]
    with torch.no_grad():
        expected = model(**batch, cascade=True).logits
    np.testing.assert_allclose(logits, expected, atol=1e-4)
