"""The head of a checkpoint: left out to start from, or taken over with the finished teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import find_checkpoint, load_classifier, load_encoder


@pytest.fixture
def save(tiny_config: BertConfig, tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Saves a checkpoint with a head: save(kind, labels, **settings)."""
    encoder = BertModel.from_pretrained(tiny_checkpoint).state_dict()

    def save(kind: type, labels: int = 2, **settings: Any) -> Path:
        directory = tmp_path / f"{kind.__name__}-{labels}-{len(list(tmp_path.iterdir()))}"
        config = BertConfig.from_dict(tiny_config.to_dict() | {"num_labels": labels} | settings)
        model: Any = kind(config)
        getattr(model, "bert", model).load_state_dict(encoder, strict=False)
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(directory)
        return directory

    return save


HEADS: list[tuple[type, int]] = [
    (BertModel, 2),
    (BertForSequenceClassification, 2),
    (BertForSequenceClassification, 5),
    (BertForSequenceClassification, 1),
    (BertForTokenClassification, 2),
    (BertForTokenClassification, 7),
    (BertForMultipleChoice, 2),
    (BertForMaskedLM, 2),
]


def test_the_new_classifier_is_the_same_from_any_head(save: Any) -> None:
    models, after = [], []
    for kind, labels in HEADS:
        found = find_checkpoint(str(save(kind, labels)))
        torch.manual_seed(7)
        models.append(load_encoder(found, 2, 0.1))
        after.append((kind, torch.rand(1)))
    first = models[0].state_dict()
    assert first["classifier.weight"].std() > 0.01
    for model, (kind, draw) in zip(models, after, strict=True):
        state = model.state_dict()
        assert state.keys() == first.keys()
        pooled = kind not in (BertForTokenClassification, BertForMaskedLM)
        for name in state:
            if pooled or "pooler" not in name:
                assert torch.equal(state[name], first[name]), (kind, name)
        if pooled:
            assert torch.equal(draw, after[0][1])
        assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize("labels", [("bad", "good"), ("Bad", "GOOD"), ("x", "y")])
def test_a_finished_classifier_is_taken_as_it_is(save: Any, labels: tuple[str, str]) -> None:
    names = {"LABEL_0": 0, "LABEL_1": 1} if labels[0] == "x" else {"bad": 0, "good": 1}
    directory = save(
        BertForSequenceClassification,
        id2label={index: name for name, index in names.items()},
        label2id=names,
        classifier_dropout=0.5,
    )
    expected = BertForSequenceClassification.from_pretrained(directory).state_dict()
    model = load_classifier(find_checkpoint(str(directory)), labels, 0.1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert (model.config.hidden_dropout_prob, model.config.classifier_dropout) == (0.1, None)
    assert model.dropout.p == 0.1


@pytest.mark.parametrize(
    ("kind", "number", "settings", "labels", "message"),
    [
        (BertModel, 2, {}, ("a", "b"), "is a BertModel for single_label_classification"),
        (BertForTokenClassification, 2, {}, ("a", "b"), "is a BertForTokenClassification"),
        (BertForMultipleChoice, 1, {}, None, "is a BertForMultipleChoice for regression"),
        (BertForSequenceClassification, 5, {}, ("a", "b"), r"a classifier of the shape \(5,\)"),
        (BertForSequenceClassification, 2, {}, None, "no finished classifier of 1 labels"),
        (
            *(BertForSequenceClassification, 2, {"problem_type": "multi_label_classification"}),
            *(("a", "b"), "for multi_label_classification"),
        ),
        (
            *(BertForSequenceClassification, 2, {"id2label": {0: "good", 1: "bad"}}),
            *(("bad", "good"), "are good, bad, and those of the task are bad, good"),
        ),
    ],
)
def test_another_classifier_is_refused(
    save: Any, kind: type, number: int, settings: Any, labels: Any, message: str
) -> None:
    checkpoint = find_checkpoint(str(save(kind, number, **settings)))
    with pytest.raises(UserError, match=message) as refusal:
        load_classifier(checkpoint, labels, 0.1)
    assert len(str(refusal.value)) < 500


def test_a_classifier_without_its_weights_is_none(save: Any) -> None:
    directory = save(BertModel)
    config = json.loads((directory / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has no classifier\.bias, and so is no finished"):
        load_classifier(find_checkpoint(str(directory)), ("a", "b"), 0.1)
