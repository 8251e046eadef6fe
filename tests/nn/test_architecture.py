"""Settings and tensors by which a checkpoint is another function than BERT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def configure(directory: Path, **settings: Any) -> str:
    config = json.loads((directory / "config.json").read_text()) | settings
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def add(directory: Path, **tensors: torch.Tensor) -> str:
    stored = load_file(directory / "model.safetensors")
    names = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(stored | names, directory / "model.safetensors", {"format": "pt"})
    return str(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        ("position_embedding_type", "alibi"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("auto_map", {"AutoModel": "own.Model"}),
        ("hidden_act", "gellu"),
        ("hidden_act", None),
        ("type_vocab_size", 0),
        ("num_hidden_layers", "2"),
    ],
)
def test_a_setting_that_makes_another_function_is_refused(
    checkpoint: Path, name: str, value: Any
) -> None:
    with pytest.raises(UserError, match=rf"config\.json sets {name} to ") as refusal:
        find_checkpoint(configure(checkpoint, **{name: value}))
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("kind", ["roberta", "albert", "distilbert", "electra", "deberta-v2", 5])
def test_other_kinds_of_models_get_one_message(checkpoint: Path, kind: Any) -> None:
    with pytest.raises(UserError, match=rf"a model of type '{kind}'; only BERT can be binarized"):
        find_checkpoint(configure(checkpoint, model_type=kind))


def test_settings_of_its_past_use_change_nothing(
    checkpoint: Path, tiny_checkpoint: Path, batch: dict[str, torch.Tensor]
) -> None:
    configure(
        checkpoint,
        position_embedding_type="absolute",
        is_decoder=False,
        pruned_heads={},
        chunk_size_feed_forward=3,
        return_dict=False,
        output_hidden_states=True,
        output_attentions=True,
        classifier_dropout=0.9,
        problem_type="multi_label_classification",
        gradient_checkpointing=True,
        use_cache=False,
        tie_word_embeddings=False,
        id2label={"0": "a", "1": "b", "2": "c"},
        label2id={"a": 0, "b": 1, "c": 2},
    )
    outputs = []
    for path in (checkpoint, tiny_checkpoint):
        torch.manual_seed(1)
        model = load_encoder(find_checkpoint(str(path)), 2, 0.1).train()
        outputs.append(model(**batch))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert outputs[0].hidden_states is outputs[0].attentions is None


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.0.crossattention.self.query.weight",
        "encoder.layer.2.output.dense.weight",
        "embeddings.language_embeddings.weight",
        "pooler.norm.weight",
    ],
)
def test_tensors_of_the_encoder_that_have_no_place_are_refused(checkpoint: Path, name: str) -> None:
    add(checkpoint, **{name: torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"1 tensors of its encoder have no place.*is .*" + name):
        load_encoder(find_checkpoint(str(checkpoint)), 2, 0.1)


def test_tensors_that_no_encoder_needs_are_left_out(checkpoint: Path) -> None:
    more = {
        "embeddings.position_ids": torch.arange(64)[None],
        "cls.predictions.bias": torch.ones(9),
    }
    load_encoder(find_checkpoint(add(checkpoint, **more)), 2, 0.1)


def test_a_table_of_another_size_is_named_with_both(checkpoint: Path) -> None:
    configure(checkpoint, max_position_embeddings=32)
    with pytest.raises(UserError, match=r"position_embeddings\.weight has the shape \(64, 32\)"):
        load_encoder(find_checkpoint(str(checkpoint)), 2, 0.1)
