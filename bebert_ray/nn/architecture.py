"""Which checkpoints are a BERT as all others are, by their `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from bebert_ray.errors import UserError
from bebert_ray.nn.classes import class_order, listed
from bebert_ray.nn.model_files import read_json

ABSENT: tuple[Any, ...] = (None, False, [], {})
PLAIN: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": ABSENT,
    "add_cross_attention": ABSENT,
    "is_encoder_decoder": ABSENT,
    "pruned_heads": ABSENT,
    "quantization_config": ABSENT,
    "auto_map": ABSENT,
}
"""Settings that make another function of a BERT, and the values that do not."""

SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
)


def check_architecture(path: Path) -> dict[str, Any]:
    """Refuse a checkpoint that is no BERT, or one that computes something else.

    Args:
        path: directory of the checkpoint.

    Returns:
        What its `config.json` holds.

    Raises:
        UserError: it is another kind of model, or has a setting that no BERT here has. The message
            names it.
    """
    config = read_json(path / "config.json", "model: ")
    kind = config.get("model_type")
    if kind is None:
        raise UserError(
            f"model: {path / 'config.json'} lacks the key model_type, which says what the model is;"
            ' add "model_type": "bert" if it is a BERT'
        )
    if kind != "bert":
        raise UserError(
            f"model: {path} holds a model of type {str(kind)[:40]!r}; only BERT can be binarized "
            "here, give a checkpoint whose model_type is 'bert'"
        )
    for name, plain in PLAIN.items():
        value = config.get(name)
        if not any(value == each for each in plain):
            raise UserError(
                f"model: {path / 'config.json'} sets {name} to {str(value)[:60]!r}, which computes "
                "something else than BERT; give a checkpoint without it"
            )
    activation = config.get("hidden_act", "gelu")
    if not (isinstance(activation, str) and activation in ACT2FN):
        raise UserError(
            f"model: {path / 'config.json'} sets hidden_act to {str(activation)[:60]!r}, which "
            "transformers does not know; common ones are gelu, gelu_new and relu"
        )
    for name in SIZES:
        size = config.get(name, 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(
                f"model: {path / 'config.json'} sets {name} to {str(size)[:60]!r}; it must be a "
                "whole number above 0"
            )
    return config


def check_labels(path: Path, labels: Sequence[str] | None) -> None:
    """Refuse a finished classifier of other labels than a task's, or of the same in other order.

    Names such as LABEL_0 say nothing, and are taken for those of the task. Otherwise
    names are compared as in `class_order`.

    Args:
        path: directory of the checkpoint.
        labels: names of the task's classes by index; None for regression.

    Raises:
        UserError: what it predicts is something else; the message names both.
    """
    config = read_json(path / "config.json", "model: ")
    wanted = "regression" if labels is None else "single_label_classification"
    kinds = config.get("architectures") or ["BertForSequenceClassification"]
    problem = config.get("problem_type") or wanted
    if "BertForSequenceClassification" not in kinds or problem != wanted:
        raise UserError(
            f"model: {path} is a {str(kinds[0])[:60]} for {str(problem)[:40]}, and no finished "
            f"classifier for {wanted}; train one from it with teacher.epochs=1 or more"
        )
    names = [str(name) for _, name in sorted(_by_index(config.get("id2label")).items())]
    known = any(name != f"LABEL_{index}" for index, name in enumerate(names))
    if labels is not None and known and class_order(names, labels) != (*range(len(labels)),):
        raise UserError(
            f"model: the labels of {path} are {listed(names)}, and those of the task are "
            f"{listed(labels)}; they must be the same, in this order, for teacher.epochs=0"
        )


def _by_index(names: Any) -> dict[int, Any]:
    if not isinstance(names, dict):
        return {}
    return {int(key): name for key, name in names.items() if str(key).isdecimal()}
