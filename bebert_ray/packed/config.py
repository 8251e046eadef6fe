"""The configuration of a packed ensemble, and what it must hold."""

from __future__ import annotations

import math
from typing import Any

from transformers import BertConfig, PreTrainedConfig

from bebert_ray.errors import UserError
from bebert_ray.nn.model_files import check_sizes, refusing
from bebert_ray.nn.shape import Shape
from bebert_ray.packed.quantizer import PackedConfig

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "num_labels",
)
"""Settings of a member that change what it computes. A default must not stand in for them."""


MOST_MEMBERS = 10_000
_FAULT = "config.json of the packed model: "


class BebertConfig(PreTrainedConfig):
    """The configuration of a packed ensemble. An ensemble of one is a single member.

    Attributes:
        member: the configuration that all members have: a `BertConfig` with an `nn.shape.Shape`.
        alphas: the members' weights in the vote, [M].
        text_columns: names of the columns that held the text, or the pair of texts.
        cascade_settings: `threshold`, `members` and `loss` of a `boosting.cascade.Cascade`; None
            if the model has none.
        shared: tensors of later members that are stored once, as `{name: name of the stored one}`.
        quantization_config: how the weights are stored.
    """

    model_type = "bebert"

    member: dict[str, Any] | None = None
    alphas: list[float] | None = None
    text_columns: list[str] | None = None
    cascade_settings: dict[str, float] | None = None
    shared: dict[str, str] | None = None
    quantization_config: PackedConfig | dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of every configuration of transformers; the settings are checked.

        Raises:
            UserError: a setting is missing or does not fit; the message names it.
        """
        with refusing("config.json of the packed model cannot be read: "):
            check_sizes(config_dict, _FAULT)
            alphas = config_dict.get("alphas")
            if isinstance(alphas, list) and len(alphas) > MOST_MEMBERS:
                raise UserError(f"{_FAULT}{len(alphas)} alphas, at most {MOST_MEMBERS} are taken")
            loaded = super().from_dict(config_dict, **kwargs)
        check_settings(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def check_settings(config: Any) -> BertConfig:
    """Check that the settings of a packed ensemble are there and fit together.

    Args:
        config: a `BebertConfig`.

    Returns:
        The configuration of a member.

    Raises:
        UserError: one is missing or does not fit; the message names it.
    """
    for name in ("member", "alphas", "text_columns", "quantization_config"):
        if getattr(config, name, None) is None:
            raise UserError(f"config.json of the packed model: the setting {name} is missing")
    _require(isinstance(config.member, dict), "member", config.member, "a map of settings")
    for name in REQUIRED:
        if config.member.get(name) is None:
            raise UserError(f"config.json of the packed model: member.{name} is missing")
    with refusing(f"{_FAULT}member cannot be read: "):
        check_sizes(config.member, f"{_FAULT}member.")
        member = BertConfig.from_dict(config.member)
    weights = Shape.of(member).weights
    _require(weights in ("split", "binary"), "member.weights", weights, "split or binary")
    alphas = config.alphas
    _require(
        isinstance(alphas, list) and len(alphas) > 0 and all(_is_alpha(each) for each in alphas),
        "alphas",
        alphas,
        "a list of one finite number >= 0 for each member",
    )
    labels = config.num_labels
    _require(labels == member.num_labels, "id2label", config.id2label, "as wide as member's logits")
    names = list(config.id2label.values())
    _require(
        all(isinstance(name, str) for name in names) and len(set(names)) == len(names),
        "id2label",
        names,
        "a name of its own for each class",
    )
    columns = config.text_columns
    _require(
        isinstance(columns, list)
        and len(columns) in (1, 2)
        and all(isinstance(name, str) for name in columns),
        "text_columns",
        columns,
        "a list of one or two names",
    )
    cascade = {"threshold": 1} if config.cascade_settings is None else config.cascade_settings
    _require(
        isinstance(cascade, dict) and _is_alpha(cascade.get("threshold")),
        "cascade_settings",
        cascade,
        "a map whose threshold is a finite number >= 0",
    )
    _require(
        isinstance(config.shared or {}, dict)
        and all(isinstance(kept, str) for kept in (config.shared or {}).values()),
        "shared",
        config.shared,
        "a map from tensors to tensors",
    )
    return member


def _require(fits: bool, name: str, value: Any, wanted: str) -> None:
    if not fits:
        raise UserError(
            f"config.json of the packed model: {name} is {_short(value, 60)}, not {wanted}"
        )


def _is_alpha(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _short(value: Any, length: int) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[:length]}…"
