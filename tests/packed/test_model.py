"""Packed models through transformers' own doors."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    pipeline,
)

from bebert_ray.boosting.vote import combine
from bebert_ray.errors import UserError
from bebert_ray.nn.costs import costs, total
from bebert_ray.packed import BebertConfig, BebertForSequenceClassification, packed_model
from bebert_ray.packed.model import finalised, rebuilt
from bebert_ray.packed.quantizer import PackedConfig
from bebert_ray.packed.summary import stored_bytes

Member = Callable[..., BertForSequenceClassification]
Batch = dict[str, Tensor]
LABELS = ("bad", "good")


def load(directory: Path) -> BebertForSequenceClassification:
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    assert isinstance(model, BebertForSequenceClassification)
    return model


@torch.no_grad()
def logits_of(model: Any, batch: Batch) -> Tensor:
    return model(**batch).logits


@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
@pytest.mark.parametrize(("bits", "count"), [(8, 1), (8, 3), (4, 2), (2, 2), (1, 2)])
def test_a_model_comes_back_to_the_bit(
    member: Member, batch: Batch, tmp_path: Path, bits: int, count: int, remainder: Any
) -> None:
    members = [member(seed, bits) for seed in range(count)]
    shipped = [finalised(each, remainder) for each in members]
    expected = torch.stack([logits_of(each, batch) for each in shipped], 1)
    trained = torch.stack([logits_of(each, batch) for each in members], 1)
    close = 0.05 if remainder == "fp16" else 1e-5
    torch.testing.assert_close(expected, trained, atol=close, rtol=0)
    alphas = [0.5, 1.5, 0.25][:count]
    model = packed_model(members, alphas, LABELS, ["text"], remainder)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    with torch.no_grad():
        for each in (model, loaded):
            output = each(**batch)
            assert torch.equal(output.member_logits, expected)
            if count == 1:
                assert torch.equal(output.logits, expected[:, 0])
            scores = combine(expected.transpose(0, 1), alphas)
            np.testing.assert_allclose(output.logits.softmax(-1), scores, atol=1e-6)
    assert loaded.config.alphas == alphas
    assert loaded.config.id2label == {0: "bad", 1: "good"}
    assert loaded.config.text_columns == ["text"]
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


KINDS: list[dict[str, Any]] = [
    *({"bits": bits} for bits in (8, 4, 2, 1)),
    {"bits": 1, "elastic": True, "softmax": True, "two_sets": True},
]


def test_a_new_process_gives_the_logits_that_were_scored(
    member: Member, batch: Batch, tmp_path: Path
) -> None:
    """With the default, 16-bit remainder; the members are scored before they are packed."""
    scored = {}
    for kind in KINDS:
        members = [member(seed, **kind) for seed in range(2)]
        each = [logits_of(finalised(one, "fp16"), batch) for one in members]
        scored[str(kind)] = torch.stack(each, 1)
        packed_model(members, [1.0, 2.0], LABELS, ["text"]).save_pretrained(tmp_path / str(kind))
    safetensors.torch.save_file(batch, tmp_path / "batch.safetensors")
    script = """
import sys, safetensors.torch, torch, transformers
import bebert_ray.packed
place, *kinds = sys.argv[1:]
batch, logits = safetensors.torch.load_file(place + "/batch.safetensors"), {}
for kind in kinds:
    directory = place + "/" + kind
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory)
    with torch.no_grad():
        logits[kind] = model(**batch).member_logits.contiguous()
safetensors.torch.save_file(logits, place + "/logits.safetensors")
"""
    command = [sys.executable, "-c", script, str(tmp_path), *scored]
    subprocess.run(command, check=True, timeout=120)
    logits = safetensors.torch.load_file(tmp_path / "logits.safetensors")
    assert [kind for kind in scored if not torch.equal(logits[kind], scored[kind])] == []


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_a_finalised_member_is_rebuilt_from_its_tensors(
    member: Member, batch: Batch, bits: int
) -> None:
    one = finalised(member(bits=bits), "fp16")
    tensors = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    again = rebuilt(BertConfig.from_dict(one.config.to_dict()), tensors)
    assert torch.equal(logits_of(again, batch), logits_of(one, batch))


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_few_bits_of_memory_give_the_same_logits(
    member: Member, batch: Batch, tmp_path: Path, bits: int
) -> None:
    packed_model([member(bits=bits)], [1.0], LABELS, ["text"]).save_pretrained(tmp_path)
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path, low_memory=True)
    assert torch.equal(logits_of(small, batch), logits_of(load(tmp_path), batch))


def test_a_copy_computes_the_same(member: Member, batch: Batch) -> None:
    model = packed_model([member()], [1.0], LABELS, ["text"])
    expected = logits_of(model, batch)
    assert torch.equal(logits_of(copy.deepcopy(model), batch), expected)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = packed_model([member(1)], [1.0], LABELS, ["text"])
    assert not torch.equal(logits_of(other, batch), expected)
    other.load_state_dict(weights)
    assert torch.equal(logits_of(other, batch), expected)


def test_sixteen_bits_change_little_and_halve_the_remainder(
    member: Member, batch: Batch, tmp_path: Path
) -> None:
    expected = torch.stack([logits_of(member(seed), batch) for seed in range(2)], 1)
    for remainder in ("fp16", "fp32"):
        members = [member(0), member(1)]
        model = packed_model(members, [1.0, 1.0], LABELS, ["text"], remainder)
        model.save_pretrained(tmp_path / remainder)
    with torch.no_grad():
        loaded = load(tmp_path / "fp16")(**batch).member_logits
    assert not torch.equal(loaded, expected)
    torch.testing.assert_close(loaded, expected, atol=0.05, rtol=0)
    small, large = (
        safetensors.torch.load_file(tmp_path / remainder / "model.safetensors")
        for remainder in ("fp16", "fp32")
    )
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in small.items()}
    assert kinds["signs"] == torch.uint8
    assert kinds["scales"] == torch.float32
    assert kinds["bias"] == kinds["clip"] == kinds["weight"] == torch.float16
    for name, tensor in small.items():
        if not name.endswith((".signs", ".scales")):
            assert torch.equal(tensor, large[name].half())
    assert {p.dtype for p in load(tmp_path / "fp16").parameters()} == {torch.float32}


def test_what_does_not_fit_in_sixteen_bits_is_refused(member: Member, tmp_path: Path) -> None:
    one = member()
    with torch.no_grad():
        one.classifier.bias[0] = 1e5
    with pytest.raises(UserError, match=r"classifier.bias does not fit .* export.remainder=fp32"):
        packed_model([one], [1.0], LABELS, ["text"]).save_pretrained(tmp_path)


def test_tensors_that_members_share_are_stored_once(
    member: Member, batch: Batch, tmp_path: Path
) -> None:
    members = [member(0), member(1), member(1)]
    members[1].bert.embeddings.load_state_dict(members[0].bert.embeddings.state_dict())
    expected = torch.stack([logits_of(finalised(each, "fp32"), batch) for each in members], 1)
    packed_model(members, [1.0] * 3, LABELS, ["text"], "fp32").save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert "members.0.bert.embeddings.word_embeddings.bits.signs" in stored
    assert not any(name.startswith("members.1.bert.embeddings.") for name in stored)
    assert any(name.startswith("members.1.") for name in stored)
    third = [name for name in stored if name.startswith("members.2.")]
    assert all("embeddings" in name for name in third), "else as the second"
    loaded = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).member_logits, expected)
    held = sum(tensor.nbytes for tensor in stored.values())
    sizes = stored_bytes(tmp_path)
    assert sum(sizes.values()) - sizes["file"] == held < loaded.summary().ensemble.bytes
    loaded.save_pretrained(tmp_path / "again")
    again, before = (p / "model.safetensors" for p in (tmp_path / "again", tmp_path))
    assert again.read_bytes() == before.read_bytes()


def test_transformers_knows_the_format(member: Member, tmp_path: Path) -> None:
    packed_model([member()], [1.0], LABELS, ["a", "b"]).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BebertConfig)
    assert config.quantization_config == {"quant_method": "bebert", "remainder": "fp16"}
    model = load(tmp_path)
    assert isinstance(model.config.quantization_config, PackedConfig)
    assert model.is_quantized
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "BebertForSequenceClassification"
    ]
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float32  # the arithmetic does not change


def test_a_model_tells_what_it_costs(member: Member, tmp_path: Path) -> None:
    members = [member(seed) for seed in range(2)]
    every = [cost for each in members for cost in costs(each, tokens=50, float_bits=16)]
    model = packed_model(members, [1.0, 1.0], LABELS, ["text"])
    model.save_pretrained(tmp_path)
    summary = load(tmp_path).summary(tokens=50)
    assert summary.ensemble == total(every)
    assert "2 members against one model in full precision" in str(summary)


def test_a_pipeline_answers(
    member: Member, tokenizer: BertTokenizer, batch: Batch, tmp_path: Path
) -> None:
    model = packed_model([member(0), member(1)], [1.0, 0.5], LABELS, ["text"], "fp32")
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    classify = pipeline("text-classification", str(tmp_path), top_k=None)
    answers = classify(["the film is good", "the plot is bad and the movie is bad"])
    inputs = tokenizer("the film is good", return_tensors="pt")
    expected = logits_of(model, dict(inputs)).softmax(-1)[0]
    assert {a["label"]: pytest.approx(a["score"], abs=1e-6) for a in answers[0]} == {
        label: float(score) for label, score in zip(LABELS, expected, strict=True)
    }
    assert len(answers) == 2
    listed = json.loads((tmp_path / "packed.json").read_text())["files"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(listed)


def test_regression_gives_the_mean(
    member: Member, tokenizer: BertTokenizer, batch: Batch, tmp_path: Path
) -> None:
    members = [member(seed, labels=1) for seed in range(2)]
    each = torch.stack([logits_of(one, batch) for one in members])
    tokenizer.save_pretrained(tmp_path)
    packed_model(members, [1.0, 3.0], None, ["text"], "fp32").save_pretrained(tmp_path)
    loaded = load(tmp_path)
    mean = (each[0] + 3 * each[1]) / 4
    torch.testing.assert_close(logits_of(loaded, batch), mean, atol=1e-5, rtol=0)
    assert loaded.config.problem_type == "regression"
    [answer] = pipeline("text-classification", str(tmp_path))("the film is good")
    assert answer["label"] == "score"


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_labels_give_the_loss_of_the_ensemble(member: Member, batch: Batch, labels: int) -> None:
    names = None if labels == 1 else [str(k) for k in range(labels)]
    members = [member(seed, labels=labels) for seed in range(2)]
    model = packed_model(members, [1.0, 0.5], names, ["text"])
    wanted = torch.tensor([0.5, -1.0, 2.0]) if labels == 1 else torch.tensor([0, labels - 1, 1])
    with torch.no_grad():
        output = model(**batch, labels=wanted)
    logits = output.logits
    if labels == 1:
        expected = (logits[:, 0] - wanted).square().mean()
    else:
        expected = -logits.log_softmax(-1)[torch.arange(3), wanted].mean()
    torch.testing.assert_close(output.loss, expected)
    assert torch.equal(logits, logits_of(model, batch))
    assert model(**batch).loss is None


def test_one_member_has_the_loss_that_bert_has(member: Member, batch: Batch) -> None:
    one = member()
    one.config.problem_type = "single_label_classification"
    wanted = torch.tensor([0, 1, 1])
    logits = logits_of(finalised(one, "fp16"), batch)
    expected = one.loss_function(wanted, logits, one.config)
    assert torch.equal(
        packed_model([one], [1.0], LABELS, ["a"])(**batch, labels=wanted).loss, expected
    )


def test_outputs_as_a_tuple(member: Member, batch: Batch) -> None:
    model = packed_model([member(0), member(1)], [1.0, 0.5], LABELS, ["text"])
    output = model(**batch, labels=torch.tensor([0, 1, 1]))
    loss, logits, each = model(**batch, labels=torch.tensor([0, 1, 1]), return_dict=False)
    assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)
    assert torch.equal(each, output.member_logits)
    assert len(model(**batch, return_dict=False)) == 2


@pytest.mark.parametrize(
    "name", ["output_hidden_states", "output_attentions", "inputs_embeds", "position_ids", "other"]
)
def test_what_is_not_supported_is_named(member: Member, batch: Batch, name: str) -> None:
    model = packed_model([member()], [1.0], LABELS, ["text"])
    with pytest.raises(TypeError, match=f"does not support {name}"):
        model(**batch, **{name: True})
    model(**batch, **{name: None})
    model(**batch, **{name: False})


def test_other_floats_are_refused(member: Member, batch: Batch) -> None:
    model = packed_model([member()], [1.0], LABELS, ["text"])
    expected = logits_of(model, batch)
    for call in ("half", "bfloat16", "double"):
        with pytest.raises(TypeError, match=rf"float32: \.{call}\(\) is not supported"):
            getattr(model, call)()
    for arguments in ({"dtype": torch.float16}, {"device": "cpu", "dtype": torch.float64}):
        with pytest.raises(TypeError, match=r"float32: \.to\(torch"):
            model.to(**arguments)
    with pytest.raises(TypeError, match=r"\.to\(torch.bfloat16\)"):
        model.to(torch.bfloat16)
    assert model.to("cpu").float().to(torch.float32) is model
    assert torch.equal(logits_of(model, batch), expected)


@pytest.mark.parametrize("bits", [8, 4, 1])
def test_torch_can_export_two_members(member: Member, batch: Batch, bits: int) -> None:
    members = [member(seed, bits) for seed in range(2)]
    model = packed_model(members, [1.0, 0.5], LABELS, ["text"])
    exported = torch.export.export(model, (), batch, strict=False).module()
    torch.testing.assert_close(exported(**batch).logits, logits_of(model, batch))


def test_all_that_is_for_the_hub_reaches_it(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[Any] = []
    monkeypatch.setattr(
        BebertForSequenceClassification,
        "push_to_hub",
        lambda self, repo_id, **options: pushed.append((repo_id, options)),
    )
    model = packed_model([member()], [1.0], LABELS, ["text"])
    options = {"private": True, "commit_message": "x", "revision": "y", "token": "z", "tags": ["t"]}
    model.save_pretrained(tmp_path / "one", push_to_hub=True, **options)
    model.save_pretrained(tmp_path / "two", push_to_hub=True, repo_id="me/it", private=True)
    model.save_pretrained(tmp_path / "three", private=True)
    assert pushed == [("one", options), ("me/it", {"private": True})]


def test_it_can_be_pushed_to_the_hub(
    member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[set[str]] = []
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: Hub())
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: Card())

    def upload(self: Any, directory: str, *_: Any, **__: Any) -> str:
        pushed.append({path.name for path in Path(directory).iterdir()})
        return "url"

    monkeypatch.setattr(BebertForSequenceClassification, "_upload_modified_files", upload)
    model = packed_model([member()], [1.0], LABELS, ["text"])
    files = {"config.json", "model.safetensors", "packed.json", "README.md"}
    model.push_to_hub("me/model")
    model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="me/model")
    assert pushed == [files, files]


class Hub:
    """Stands in for the hub's client."""

    def create_repo(self, repo_id: str, **_: Any) -> Hub:
        self.repo_id = repo_id
        return self


class Card:
    """Stands in for a model card."""

    def save(self, path: str) -> None:
        Path(path).write_text("card")
