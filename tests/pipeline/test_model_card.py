from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from bebert_ray.pipeline.model_card import markdown, model_card

SIZES = {"weights": 3_000_000, "scales": 10_000, "floats": 200_000, "file": 3_300_000}


def card(labels: tuple[str, ...] | None = ("no", "yes"), **config: Any) -> str:
    inputs = {
        "config": {"task": "mrpc", "model": "bundled", "bits": "1-1-4", "seed": 1} | config,
        "text_columns": ["sentence1", "sentence2"],
        "alphas": [1.0, 0.5],
        "labels": labels,
        "remainder": "fp16",
    }
    facts = {
        "scores": {
            "selection": {"accuracy": 0.9, "f1": 0.95},
            "dev": {"accuracy": 0.8125, "f1": 0.875},
        },
        "logit_difference": 0.0,
        "bytes": SIZES,
        "versions": {"bebert_ray": "0.1"},
    }
    return model_card(inputs, facts)


def test_the_hub_reads_what_the_card_says() -> None:
    data = ModelCard(card()).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.datasets == ["nyu-mll/glue"] and data.metrics == ["accuracy", "f1"]
    assert data.license is None
    found = {
        r.metric_type: (r.dataset_config, r.dataset_split, r.metric_value)
        for r in data.eval_results
    }
    assert found == {
        "accuracy": ("mrpc", "validation", 0.8125),
        "f1": ("mrpc", "validation", 0.875),
    }


def test_people_read_how_to_install_and_use_it() -> None:
    text = card()
    assert "pip install bebert_ray" in text and 'classify({"text": "…", "text_pair": "…"})' in text
    assert "| dev | 0.8125 | 0.8750 |" in text and "Labels: no, yes." in text


@pytest.mark.parametrize("model", ["/data/bert", "./bert", "~/bert", "a/b/c", "bert"])
def test_a_checkpoint_without_a_name_on_the_hub_is_not_named(model: str) -> None:
    data = ModelCard(card(model=model, task="custom")).data
    assert data.base_model is None and data.datasets is None
    assert data.eval_results[0].dataset_name == "custom"
    assert ModelCard(card(model="google/bert_x")).data.base_model == "google/bert_x"


def test_labels_and_settings_cannot_leave_their_place() -> None:
    hostile = "a\tb\nc<script>x</script>|`*_"
    text = card((hostile, "yes"), note="```\n# Owned\n```")
    assert markdown(hostile) in text and "<script>" not in text
    assert "\n" not in markdown(hostile) and "\t" not in markdown(hostile)
    fence, _, rest = text[text.index("````yaml") :].partition("yaml\n")
    settings, _, after = rest.partition(f"\n{fence}")
    assert yaml.safe_load(settings)["note"] == "```\n# Owned\n```" and after.strip() == ""
    assert ModelCard(text).data.library_name == "transformers"
