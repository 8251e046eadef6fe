"""Packed models that are whole, as their manifest says, and still not complete."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from bebert_ray.errors import UserError
from bebert_ray.packed import load_model, packed_model
from bebert_ray.packed.manifest import write_manifest

SIGNS = "members.0.bert.pooler.dense.bits.signs"
BIAS = "members.1.classifier.bias"
Tensors = dict[str, Tensor]


@pytest.fixture
def packed(member: Callable[..., BertForSequenceClassification], tmp_path: Path) -> Path:
    """A directory with a packed model of two members."""
    model = packed_model([member(0), member(1)], [1.0, 0.5], ("no", "yes"), ["text"])
    model.save_pretrained(tmp_path)
    return tmp_path


def refused(directory: Path) -> str:
    write_manifest(directory)
    with pytest.raises(UserError) as caught:
        load_model(directory)
    message = str(caught.value)
    assert len(message) <= 500
    with pytest.raises(UserError):
        AutoModelForSequenceClassification.from_pretrained(directory)
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(BIAS), rf"lacks the tensor {BIAS}$"),
        (lambda t: t.pop(SIGNS), rf"lacks the tensor {SIGNS}$"),
        (lambda t: t.update(x=torch.zeros(1)), "has the unexpected tensor x$"),
        (lambda t: t.update({"x" * 9999: torch.zeros(1)}), "has the unexpected tensor x{100}$"),
        (lambda t: t.update({BIAS: torch.zeros(3)}), rf"{BIAS} is F32 \[3\], not F16 or F32 \[2\]"),
        (lambda t: t.update({SIGNS: t[SIGNS].float()}), rf"{SIGNS} is F32 .*, not U8"),
        (lambda t: t.update({BIAS: t[BIAS].int()}), rf"{BIAS} is I32"),
        (lambda t: t[BIAS].fill_(torch.nan), rf"{BIAS} .* not finite"),
    ],
    ids=range(8),
)
def test_tensors_that_are_missing_unexpected_or_unfit(
    packed: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    path = packed / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    assert re.search(message, refused(packed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("alphas"), "the setting alphas is missing"),
        (lambda c: c.pop("member"), "the setting member is missing"),
        (lambda c: c.pop("text_columns"), "the setting text_columns is missing"),
        (lambda c: c.pop("quantization_config"), "the setting quantization_config is missing"),
        (lambda c: c["member"].pop("width"), "the setting width"),
        (lambda c: c["member"].pop("hidden_act"), "member.hidden_act is missing"),
        (lambda c: c["member"].pop("layer_norm_eps"), "member.layer_norm_eps is missing"),
        (lambda c: c["member"].update(weights="full", activation_bits=None), "member.weights"),
        (lambda c: c["member"].update(num_labels=3), "id2label"),
        (lambda c: c["member"].update(hidden_size="wide"), "member"),
        (lambda c: c.update(alphas=[]), "alphas is"),
        (lambda c: c.update(alphas=[1.0, -1.0]), "alphas is"),
        (lambda c: c.update(alphas=[1.0, float("nan")]), "alphas is"),
        (lambda c: c.update(alphas="x" * 9999), "alphas"),
        (lambda c: c.update(alphas=[1.0]), "unexpected tensor members.1"),
        (lambda c: c.update(alphas=[1.0] * 3), "lacks the tensor members.2"),
        (lambda c: c.update(text_columns=[]), "text_columns is"),
        (lambda c: c.update(shared={BIAS: "no.such"}), f"{BIAS} cannot be no.such"),
        (lambda c: c.update(shared={"no.such": BIAS}), f"no.such cannot be {BIAS}"),
        (lambda c: c["quantization_config"].update(remainder="fp8"), "remainder 'fp8'"),
        (lambda c: c.update(cascade_settings={"members": 1.5}), "cascade_settings is"),
        (lambda c: c.update(cascade_settings=True), "cascade_settings is True"),
    ],
    ids=range(22),
)
def test_settings_that_are_missing_or_unfit(
    packed: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = packed / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    assert message in refused(packed)


def test_the_configuration_alone_is_checked(packed: Path) -> None:
    path = packed / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"alphas": None}))
    with pytest.raises(UserError, match="alphas is missing"):
        AutoConfig.from_pretrained(packed)
