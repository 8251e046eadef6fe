"""Quantized BERTs as models: built from a shape and weights, copied, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from bebert_ray.nn.attention import ATTENTION
from bebert_ray.nn.binarize import binarize_
from bebert_ray.nn.narrow import narrow_
from bebert_ray.nn.shape import Shape
from bebert_ray.nn.split import split_, ternarize_


def build(config: BertConfig, weights: dict[str, Tensor]) -> BertForSequenceClassification:
    """A model with the `Shape` that its configuration holds, and with `weights`.

    Args:
        config: of the model, see `Shape.of`.
        weights: the tensors of such a model by name; the model uses them without a copy.

    Raises:
        UserError: a setting of the shape is missing or does not fit.
    """
    model = outline(config)
    fill_(model, weights)
    model.requires_grad_(True)
    return model


def fill_(model: BertForSequenceClassification, weights: dict[str, Tensor]) -> None:
    """Give an `outline` its weights, in place and without a copy."""
    model.load_state_dict(weights, assign=True)
    # The two buffers that are not in the state dict.
    embeddings: Any = model.bert.embeddings
    embeddings.position_ids = torch.arange(model.config.max_position_embeddings)[None]
    embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)


def outline(config: BertConfig) -> BertForSequenceClassification:
    """A model with the `Shape` that its configuration holds, on the meta device: without weights.

    Raises:
        UserError: a setting of the shape is missing or does not fit.

    Examples:
        >>> config = BertConfig(num_hidden_layers=1)
        >>> Shape(0.5, "split", 8).write_to(config)
        >>> outline(config).bert.encoder.layer[0].output.dense.weight_1.shape
        torch.Size([768, 1536])
    """
    config._attn_implementation = ATTENTION
    shape = Shape.of(config)
    bits = shape.activation_bits
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
        model.bert.embeddings.word_embeddings.sparse = True
        if shape.width < 1:
            narrow_(model, shape.width)
        if shape.weights in ("ternary", "split"):
            assert bits is not None
            ternarize_(model, bits)
        if shape.weights == "split":
            split_(model)
        if shape.weights == "binary":
            assert bits is not None
            binarize_(model, bits, shape.elastic, shape.softmax, shape.two_sets)
    return model


def copy_of(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """An independent model of the same shape with the same weights, on the CPU."""
    weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    return build(BertConfig.from_dict(model.config.to_dict()), weights)


def without_dropout(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Switch off every dropout of `model`, in place: quantized models underfit, and need none."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    return model


def save_model(model: BertForSequenceClassification, directory: Path) -> None:
    """Write `config.json` and `model.safetensors` (the latent weights, float32)."""
    (directory / "config.json").write_text(model.config.to_json_string(use_diff=False))
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        directory / "model.safetensors",
    )


def load_model(directory: Path) -> BertForSequenceClassification:
    """Read what `save_model` wrote."""
    config = BertConfig.from_dict(json.loads((directory / "config.json").read_text()))
    return build(config, load_weights(directory))


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a saved model by name."""
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    # A tensor that is mapped from a file starts at any offset, and a matrix product may round
    # differently there. In memory of its own a loaded model gives the same bits as the saved one.
    return {name: tensor.clone() for name, tensor in tensors.items()}
