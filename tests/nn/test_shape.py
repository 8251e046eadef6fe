from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.errors import UserError
from bebert_ray.nn.bert import load_model, save_model
from bebert_ray.nn.shape import Shape

Make = Callable[..., BertForSequenceClassification]
OPTIONS = {"elastic": True, "softmax": False, "two_sets": False}


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        ({}, {"width": 1.0, "weights": "full", "activation_bits": None}),
        ({"width": 0.5}, {"width": 0.5, "weights": "full", "activation_bits": None}),
        (
            {"kind": "ternary", "bits": 4, "width": 0.5},
            {"width": 0.5, "weights": "ternary", "activation_bits": 4},
        ),
        ({"kind": "split"}, {"width": 1.0, "weights": "split", "activation_bits": 8}),
        (
            {"kind": "binary", "bits": 1, **OPTIONS},
            {"width": 1.0, "weights": "binary", "activation_bits": 1, **OPTIONS},
        ),
    ],
    ids=str,
)
def test_the_shape_is_stored_beside_what_bert_has_and_nothing_else(
    make: Make, tmp_path: Path, made: dict[str, Any], stored: dict[str, Any]
) -> None:
    model = make(**made)
    save_model(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written[name] for name in written.keys() - BertConfig().to_dict()} == stored
    assert Shape.of(load_model(tmp_path).config) == Shape(**stored)


def test_a_plain_configuration_is_a_plain_bert() -> None:
    assert Shape.of(BertConfig()) == Shape()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 1.0, "weights": "split"}, "activation_bits .* is missing"),
        ({"width": 1.0, "activation_bits": 8}, "weights .* is missing"),
        ({"weights": "split", "activation_bits": 8}, "width .* is missing"),
        ({"width": 1.0, "weights": "binary", "activation_bits": 1}, "elastic .* is missing"),
        ({"width": 0, "weights": "split", "activation_bits": 8}, "width is '0'"),
        ({"width": "x" * 999, "weights": "full", "activation_bits": None}, "width is 'x{40}'"),
        ({"width": 1.0, "weights": "none", "activation_bits": 8}, "weights is 'none'"),
        ({"width": 1.0, "weights": ["split"], "activation_bits": 8}, "weights is"),
        ({"width": 1.0, "weights": "split", "activation_bits": None}, "activation_bits is 'None'"),
        ({"width": 1.0, "weights": "split", "activation_bits": 0}, "activation_bits is '0'"),
        ({"width": 1.0, "weights": "full", "activation_bits": 8}, "activation_bits is '8'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_settings_that_are_missing_or_do_not_fit_are_named(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Shape.of(BertConfig(**settings))
