"""A packed ensemble as a Hugging Face model: from_pretrained, save_pretrained, pipeline."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import can_return_tuple

from bebert_ray.boosting.torch_vote import combine_logits
from bebert_ray.boosting.vote import shares
from bebert_ray.errors import UserError
from bebert_ray.nn.bert import copy_of, fill_, outline
from bebert_ray.nn.costs import TOKENS
from bebert_ray.nn.model_files import refusing
from bebert_ray.packed.config import BebertConfig, check_settings
from bebert_ray.packed.extent import check_extent
from bebert_ray.packed.layers import pack_, prepare_
from bebert_ray.packed.manifest import check, write_manifest
from bebert_ray.packed.quantizer import (
    FLOAT_BITS,
    PackedConfig,
    PackedQuantizer,
    Remainder,
    round_,
)
from bebert_ray.packed.summary import Summary, summarize
from bebert_ray.storage.disk import set_modes


@dataclass
class EnsembleOutput(SequenceClassifierOutput):
    """The output of `BebertForSequenceClassification`.

    Attributes:
        loss: [], if labels were given.
        logits: [batch, K], whose softmax is the ensemble's probabilities; regression: [batch, 1].
        member_logits: [batch, M, K]; in a cascade NaN of members that were not asked.
    """

    member_logits: Tensor | None = None


class BebertForSequenceClassification(PreTrainedModel):
    """An ensemble of packed BERTs.

    Made from a configuration alone it has no weights: `from_pretrained` loads them, and
    `packed_model` takes those of trained members.

    Raises:
        UserError: a setting of the configuration is missing or does not fit.
    """

    config_class = BebertConfig
    cascade = False
    """Whether `forward` asks members one after another, unless it is told."""

    def __init__(self, config: BebertConfig):
        super().__init__(config)
        member = check_settings(config)
        assert config.alphas is not None
        self.num_labels: int = config.num_labels or 1
        self.members = nn.ModuleList(outline(member) for _ in config.alphas)
        self._keys_to_ignore_on_load_missing = [re.escape(name) for name in config.shared or {}]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cascade: bool | None = None,
        **unsupported: Any,
    ) -> EnsembleOutput:
        """Score sentences.

        The loss is that of `BertForSequenceClassification`, on the logits of the ensemble: cross
        entropy for classes, mean squared error for regression. Packed weights get no gradient.

        Args:
            input_ids: [batch, tokens].
            attention_mask: [batch, tokens], 0 for padding; None if there is no padding.
            token_type_ids: [batch, tokens], 1 for the second text of a pair; None for zeros.
            labels: [batch], class indices, or targets in regression; None for no loss.
            cascade: whether the members after the first are asked only where those before them are
                unsure, see `boosting.cascade`; None: as the model was loaded.
            unsupported: arguments of other models, which must be None or False.

        Returns:
            The output; with `return_dict=False` the tuple (loss if there are labels, logits,
            member_logits).

        Raises:
            TypeError: an argument is not supported, such as `output_hidden_states=True`.
            UserError: a cascade is asked for, and the model has none.
        """
        for name, value in unsupported.items():
            if value is not None and value is not False:
                raise TypeError(
                    f"{type(self).__name__} does not support {name}. It takes input_ids, "
                    "attention_mask, token_type_ids, labels, cascade and return_dict"
                )
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        if self.cascade if cascade is None else cascade:
            logits, each = self._cascaded(batch)
        else:
            each = torch.stack([member(**batch).logits for member in self.members])
            logits = combine_logits(each, self.config.alphas)
        loss = None if labels is None else self._loss(logits, labels)
        return EnsembleOutput(loss=loss, logits=logits, member_logits=each.transpose(0, 1))

    def _cascaded(self, batch: dict[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """The logits of the members that were asked, [batch, K], and of each, [M, batch, K]."""
        threshold, alphas = threshold_of(self.config), self.config.alphas
        counted = np.flatnonzero(shares(alphas)).tolist()
        ids = batch["input_ids"]
        assert ids is not None
        rows = torch.arange(len(ids), device=ids.device)
        each = torch.full((len(alphas), len(ids), self.num_labels), torch.nan, device=ids.device)
        logits = each[0].clone()
        for place, number in enumerate(counted):
            part = {name: None if x is None else x[rows] for name, x in batch.items()}
            each[number, rows] = self.members[number](**part).logits
            asked = counted[: place + 1]
            vote = combine_logits(each[asked][:, rows], [alphas[m] for m in asked])
            logits[rows] = vote
            rows = rows[vote.softmax(-1).amax(-1) < threshold]
            if not len(rows):
                break
        return logits, each

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.num_labels == 1:
            return F.mse_loss(logits.view(-1), labels.view(-1).to(logits.dtype))
        return F.cross_entropy(logits, labels.view(-1))

    def half(self, *_: Any) -> Any:
        """Not supported.

        Raises:
            TypeError: always.
        """
        raise _float32_alone("half()")

    def bfloat16(self) -> Any:
        """Not supported.

        Raises:
            TypeError: always.
        """
        raise _float32_alone("bfloat16()")

    def double(self) -> Any:
        """Not supported.

        Raises:
            TypeError: always.
        """
        raise _float32_alone("double()")

    def float(self, *_: Any) -> Any:
        """The model itself: it computes in float32 already."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Move the model to a device, as of every module.

        Raises:
            TypeError: a dtype other than float32 is asked for.
        """
        for value in (*args, *kwargs.values()):
            dtype = value.dtype if isinstance(value, Tensor) else value
            if isinstance(dtype, torch.dtype) and dtype != torch.float32:
                raise _float32_alone(f"to({dtype})")
        return super().to(*args, **kwargs)

    def summary(self, tokens: int = TOKENS) -> Summary:
        """What the ensemble costs for a sentence of so many tokens; printed, it is a table."""
        return summarize(
            check_settings(self.config),
            members=len(self.members),
            float_bits=FLOAT_BITS[self.config.quantization_config.remainder],
            tokens=tokens,
            asked=(self.config.cascade_settings or {}).get("members"),
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[Any] | None,
        *args: Any,
        low_memory: bool = False,
        cascade: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As of every Hugging Face model, and every file is checked against the manifest first.

        Args:
            pretrained_model_name_or_path: see `PreTrainedModel.from_pretrained`.
            args: likewise.
            low_memory: whether weights stay bits in memory, which every call unpacks: slower, with
                the same logits. By default they are unpacked once, to a byte a weight or more.
            cascade: whether members are asked one after another, see `forward`.
            kwargs: likewise.

        Raises:
            UserError: as by `check`; or a tensor or a setting is missing, unexpected or does not
                fit; or a cascade is asked for, and the model has none.
        """
        place = pretrained_model_name_or_path
        with refusing(f"{place} cannot be loaded: "):
            if place is not None:
                check_extent(check(place, **kwargs))
            loaded = super().from_pretrained(place, *args, **kwargs)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            prepare_(model, low_memory)
        if cascade:
            threshold_of(model.config)
        model.cascade = cascade
        return loaded

    def save_pretrained(
        self, save_directory: str | PathLike[Any], *args: Any, **kwargs: Any
    ) -> None:
        """As of every Hugging Face model, with a manifest of all that is in the directory then.

        A tokenizer that was saved before is listed in it; one that is saved later is not checked in
        loading.

        Args:
            save_directory: where to write.
            args: see `PreTrainedModel.save_pretrained`.
            kwargs: likewise. With `push_to_hub=True`, all that `push_to_hub` takes is passed on to
                it (`private`, `commit_message`, `revision`, `token`, ...).

        Raises:
            TypeError: with `push_to_hub=True`, an argument that neither of the two takes.
        """
        directory = Path(save_directory)
        options = inspect.signature(PreTrainedModel.save_pretrained).bind(
            self, directory, *args, **kwargs
        )
        hub = options.arguments.pop("kwargs", {})
        push = options.arguments.pop("push_to_hub", False)
        PreTrainedModel.save_pretrained(*options.args, **options.kwargs)
        set_modes(directory, "*.safetensors")
        write_manifest(directory)
        if push:  # not earlier: it takes the manifest along
            both = ("token", "max_shard_size")
            hub |= {name: options.arguments[name] for name in both if name in options.arguments}
            self.push_to_hub(hub.pop("repo_id", directory.name), **hub)


def threshold_of(config: Any) -> float:
    """The threshold of a model's cascade.

    Raises:
        UserError: it has none.
    """
    if config.cascade_settings is None:
        raise UserError(
            "the model has no cascade: it was packed without one, has one member, or predicts a "
            "number"
        )
    threshold: float = config.cascade_settings["threshold"]
    return threshold


def finalised(
    member: BertForSequenceClassification, remainder: Remainder
) -> BertForSequenceClassification:
    """A trained member as it ships: a copy, packed, its floats rounded as the file rounds them.

    Its logits are those of the member in the loaded file, to the last bit, on the same machine, for
    the same batches and by the same number of threads.

    Args:
        member: a binary BERT on any device.
        remainder: how all that is not binary is stored, see `PackedConfig`.

    Returns:
        A model on the CPU, in eval mode, which has the state dict of a member of a packed model.

    Raises:
        UserError: a value does not fit in 16 bits.
    """
    return _finalise_(copy_of(member), remainder)


def rebuilt(config: BertConfig, weights: dict[str, Tensor]) -> BertForSequenceClassification:
    """A `finalised` member from its configuration and its state dict, without a copy."""
    member = outline(config)
    pack_(member)
    fill_(member, weights)
    return member.requires_grad_(False).eval()


def _finalise_(
    member: BertForSequenceClassification, remainder: Remainder
) -> BertForSequenceClassification:
    pack_(member)
    round_(member, remainder)
    return member.requires_grad_(False).eval()


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
        alphas: the weight of each in the vote.
        labels: names of the classes; None for regression.
        text_columns: one column of text, or the two of a pair.
        remainder: how all that is not binary is saved. In memory it is float32, rounded so.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: an argument does not fit, or a weight is not finite or too large for 16 bits.
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
    model.members = nn.ModuleList(_finalise_(member, remainder) for member in members)
    quantizer: Any = PackedQuantizer(config.quantization_config)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    prepare_(model)
    return model.eval()


def _float32_alone(call: str) -> TypeError:
    return TypeError(
        f"a packed model computes in float32: .{call} is not supported, leave it out. In memory "
        "and in the file its weights take one bit each already"
    )
