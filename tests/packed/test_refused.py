"""Packed models that are whole, as their manifest says, and still not complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
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
from bebert_ray.packed.load import read_summary
from bebert_ray.packed.manifest import write_manifest
from bebert_ray.storage.hashing import fingerprint

SIGNS = "members.0.bert.pooler.dense.bits.signs"
BIAS = "members.1.classifier.bias"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model lies that each test has a copy of, once the first test has made it."""
    return tmp_path_factory.mktemp("packed") / "model"


@pytest.fixture
def packed(
    member: Callable[..., BertForSequenceClassification], _made_once: Path, tmp_path: Path
) -> Path:
    """A directory with a packed model of two members."""
    if not _made_once.exists():
        model = packed_model([member(0), member(1)], [1.0, 0.5], ("no", "yes"), ["text"])
        model.save_pretrained(_made_once)
    return Path(shutil.copytree(_made_once, tmp_path, dirs_exist_ok=True))


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


def more(value: str) -> Callable[[str], str]:
    return lambda text: text.replace("{", '{"more": ' + value + ", ", 1)


def settings(**changed: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changed)


def of_member(**changed: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        config = json.loads(text)
        config["member"] |= changed
        return json.dumps(config)

    return change


def header(length: int, text: bytes = b"{}") -> Callable[[bytes], bytes]:
    return lambda _: length.to_bytes(8, "little") + text


TENSORS = "model.safetensors"
DAMAGES: list[tuple[str, Any, str]] = [
    ("config.json", lambda text: text[:200], "is not JSON"),
    ("config.json", lambda _: "", "is not JSON"),
    ("config.json", lambda _: "[1]", "no JSON object"),
    ("config.json", more("[" * 200_000 + "]" * 200_000), "is not JSON"),
    ("config.json", settings(member=[1]), "member is [1]"),
    ("config.json", settings(num_labels=10**10), "num_labels is 1e+10"),
    ("config.json", settings(id2label={"0": "yes", "1": "yes"}), "id2label is"),
    ("config.json", settings(id2label={"0": ["x"], "1": 2}), "id2label is"),
    ("config.json", settings(id2label=3), "cannot be read"),
    ("config.json", settings(alphas=[1.0] * 1_000_000), "1000000 alphas, at most"),
    ("config.json", settings(alphas=[True, 1.0]), "alphas is"),
    ("config.json", settings(shared=[1]), "shared is [1]"),
    ("config.json", settings(quantization_config=5), ""),
    ("config.json", settings(quantization_config={"x" * 5000: 5}), ""),
    ("config.json", of_member(num_labels=10**10), "member.num_labels is 1e+10"),
    ("config.json", of_member(num_hidden_layers=1_000_000), "member.num_hidden_layers is 1e+06"),
    ("config.json", of_member(num_hidden_layers=900), "2 alphas and 900 layers"),
    ("config.json", of_member(num_hidden_layers=-1), "member.num_hidden_layers is -1"),
    ("config.json", of_member(num_hidden_layers="2"), "member.num_hidden_layers is '2'"),
    ("config.json", of_member(num_attention_heads=0), ""),
    ("config.json", of_member(hidden_size=10**400), "hidden_size is"),
    ("config.json", of_member(vocab_size=10**8), "does not fit config.json"),
    ("config.json", of_member(hidden_act="no_such"), "no_such"),
    ("config.json", of_member(layer_norm_eps="small"), ""),
    ("config.json", of_member(activation_bits=10**9), "activation_bits is"),
    (TENSORS, lambda content: content[: len(content) // 2], "cut short"),
    (TENSORS, lambda content: content[:5], "no safetensors file"),
    (TENSORS, lambda _: b"", "empty"),
    (TENSORS, header(2**63), "cut short"),
    (TENSORS, header(2), "0 tensors"),
    (TENSORS, header(40_005, b'{"a":' + b"[" * 40_000), "no safetensors file"),
    (TENSORS, header(31, b'{"a":{"data_offsets":["x",[]]}}'), "no safetensors file"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_or_hostile_file_ends_in_one_message(
    packed: Path, name: str, damage: Any, message: str
) -> None:
    path = packed / name
    changed = damage(path.read_bytes() if name == TENSORS else path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    write_manifest(packed)
    begun = time.process_time()
    for use in (load_model, read_summary):
        with pytest.raises(UserError) as caught:
            use(packed)
        assert message in str(caught.value)
        assert len(str(caught.value)) <= 500
    assert time.process_time() - begun < 10  # for two


@pytest.mark.parametrize(
    "change",
    [
        {"version": 10**400},
        {"version": "1"},
        {"files": [1]},
        {"files": {"config.json": 5}},
        {"files": {"../config.json": {"sha256": "", "bytes": 1}}},
        {"files": {}},
    ],
    ids=range(6),
)
def test_an_altered_manifest_ends_in_one_message(packed: Path, change: dict[str, Any]) -> None:
    entries = json.loads((packed / "packed.json").read_text()) | change
    del entries["checksum"]
    entries["checksum"] = fingerprint(entries)
    (packed / "packed.json").write_text(json.dumps(entries))
    for use in (load_model, read_summary):
        with pytest.raises(UserError) as caught:
            use(packed)
        assert len(str(caught.value)) <= 500


def test_the_umask_decides_who_may_read_a_saved_model(packed: Path) -> None:
    model = load_model(packed)
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        again = packed / f"again-{mode:o}"
        before = os.umask(mask)
        try:
            model.save_pretrained(again)
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in again.iterdir()} == {mode}


def test_the_configuration_alone_is_checked(packed: Path) -> None:
    path = packed / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"alphas": None}))
    with pytest.raises(UserError, match="alphas is missing"):
        AutoConfig.from_pretrained(packed)
