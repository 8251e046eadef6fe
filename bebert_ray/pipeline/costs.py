"""What members of a run would be, before there is one: for counting costs from shapes alone."""

from __future__ import annotations

import copy
from typing import Any

from transformers import BertConfig

from bebert_ray.config import Config
from bebert_ray.config.bits import FULL_WIDTH, Bits
from bebert_ray.nn.shape import Shape

MODEL_SIZES: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "bert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""What the configurations of published checkpoints differ in from BERT-base, uncased."""


def member_config(config: Config, encoder: BertConfig) -> BertConfig:
    """The configuration that members of a run would have.

    Args:
        config: of the run.
        encoder: of the checkpoint that the run starts from.
    """
    member, binary = copy.deepcopy(encoder), config.binary
    Shape(
        config.width,
        "binary" if config.bits in FULL_WIDTH else "split",
        Bits.parse(config.bits).activations,
        elastic=binary.activations == "elastic",
        softmax=binary.attention == "softmax",
        two_sets=binary.two_sets,
    ).write_to(member)
    return member
