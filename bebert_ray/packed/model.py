"""A packed ensemble as a Hugging Face model: from_pretrained, save_pretrained, pipeline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from bebert_ray.nn.bert import outline
from bebert_ray.nn.costs import TOKENS
from bebert_ray.packed.layers import pack_
from bebert_ray.packed.manifest import check, write_manifest
from bebert_ray.packed.quantizer import FLOAT_BITS, PackedConfig, PackedQuantizer, Remainder
from bebert_ray.packed.summary import Summary, summarize


class BebertConfig(PreTrainedConfig):
    """Configuration of a packed ensemble; an ensemble of one is a single member.

    Attributes:
        member: the configuration that all members have, see `models.bert.build`.
        alphas: the members' say, [M].
        text_columns: names of the columns that held the text, or the pair of texts.
        shared: tensors of later members that are stored once, as `{name: name that it is under}`.
        quantization_config: how the weights are stored.
    """

    model_type = "bebert"

    member: dict[str, Any] | None = None
    alphas: list[float] | None = None
    text_columns: list[str] | None = None
    shared: dict[str, str] | None = None
    quantization_config: PackedConfig | dict[str, Any] | None = None


@dataclass
class EnsembleOutput(SequenceClassifierOutput):
    """What `BebertForSequenceClassification` gives.

    Attributes:
        logits: [batch, K], whose softmax is the ensemble's probabilities; regression: [batch, 1].
        member_logits: [batch, M, K].
    """

    member_logits: Tensor | None = None


class BebertForSequenceClassification(PreTrainedModel):
    """An ensemble of packed BERTs.

    Made from a configuration it has no weights: `from_pretrained` loads them, `packed_model` takes
    those of trained members.
    """

    config_class = BebertConfig

    def __init__(self, config: BebertConfig):
        super().__init__(config)
        assert config.member is not None and config.alphas is not None
        self.num_labels: int = config.num_labels or 1
        self.members = nn.ModuleList(
            outline(BertConfig.from_dict(config.member)) for _ in config.alphas
        )
        self._keys_to_ignore_on_load_missing = [re.escape(name) for name in config.shared or {}]
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> EnsembleOutput:
        """Score sentences.

        Args:
            input_ids: [batch, tokens].
            attention_mask: [batch, tokens], 0 for padding; None if there is none.
            token_type_ids: [batch, tokens], 1 for the second text of a pair.
        """
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        logits = torch.stack([member(**batch).logits for member in self.members])
        combined = combine_logits(logits, logits.new_tensor(self.config.alphas))
        return EnsembleOutput(logits=combined, member_logits=logits.transpose(0, 1))

    def summary(self, tokens: int = TOKENS) -> Summary:
        """What the ensemble costs for a sentence of so many tokens; printed, it is a table."""
        assert self.config.member is not None
        return summarize(
            BertConfig.from_dict(self.config.member),
            members=len(self.members),
            float_bits=FLOAT_BITS[self.config.quantization_config.remainder],
            tokens=tokens,
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[Any] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As of every Hugging Face model, and every file is checked against the manifest first.

        Raises:
            UserError: as by `check`.
        """
        if pretrained_model_name_or_path is not None:
            check(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(
        self, save_directory: str | PathLike[Any], *args: Any, **kwargs: Any
    ) -> None:
        """As of every Hugging Face model, with the manifest of all that is in the directory then.

        A tokenizer saved before is listed in it; one saved later is not checked in loading.
        """
        directory = Path(save_directory)
        push = kwargs.pop("push_to_hub", False)
        repository = kwargs.pop("repo_id", directory.name)
        super().save_pretrained(directory, *args, **kwargs)
        write_manifest(directory)
        if push:  # not earlier: it takes the manifest along
            self.push_to_hub(repository, token=kwargs.get("token"))


def packed_model(
    members: Sequence[BertForSequenceClassification],
    alphas: Sequence[float],
    labels: Sequence[str] | None,
    text_columns: Sequence[str],
    remainder: Remainder = "fp16",
) -> BebertForSequenceClassification:
    """An ensemble of trained members, which are packed in place.

    Args:
        members: binary BERTs of one shape, on the CPU.
        alphas: the say of each.
        labels: names of the classes; None for regression.
        text_columns: one column of text, or two of a pair.
        remainder: how all that is not binary is saved; in memory it is float32.
    """
    shape = members[0].config.to_dict()
    for name in ("id2label", "label2id", "_name_or_path", "quantization_config"):
        shape.pop(name, None)
    names = labels or ("score",)
    config = BebertConfig(
        member=shape | {"num_labels": len(names)},
        alphas=list(alphas),
        text_columns=list(text_columns),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="single_label_classification" if labels else "regression",
    )
    config.quantization_config = PackedConfig(remainder)
    model = BebertForSequenceClassification(config)
    for member in members:
        pack_(member)
    model.members = nn.ModuleList(members)
    quantizer: Any = PackedQuantizer(config.quantization_config)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    return model.eval()


def combine_logits(logits: Tensor, alphas: Tensor) -> Tensor:
    """The logits of an ensemble, whose softmax is what `ensemble.aggregate.combine` gives.

    For classification the log of the mean of the members' probabilities, weighted by `alphas`; for
    regression (K = 1) the mean of their outputs. Of a single member its own logits. With every
    alpha at 0 each member counts the same.

    Args:
        logits: [M, batch, K].
        alphas: [M], >= 0.

    Returns:
        [batch, K].
    """
    if len(logits) == 1:
        return logits[0]
    alphas = alphas if alphas.any() else torch.ones_like(alphas)
    weights = (alphas / alphas.sum())[:, None, None]
    if logits.shape[-1] == 1:
        return (weights * logits).sum(0)
    return (logits.log_softmax(-1) + weights.log()).logsumexp(0)
