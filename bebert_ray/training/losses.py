"""Losses of the stages: a loss is a function from a batch to a scalar that closes over its models.

Every loss averages over examples. `sample_weight` [n] (mean 1 over the training set) is looked up
by the example index that each batch carries, never by position, so no shuffling can misdirect it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForSequenceClassification

Batch = dict[str, Tensor]
Loss = Callable[[Batch], Tensor]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def inputs_of(batch: Batch) -> Batch:
    """The part of a batch that a model's forward takes."""
    return {name: batch[name] for name in INPUTS}


def weighted_mean(losses: Tensor, batch: Batch, sample_weight: Tensor | None) -> Tensor:
    """Mean of the examples' losses [batch], each times its weight."""
    if sample_weight is not None:
        losses = losses * sample_weight[batch["index"]]
    return losses.mean()


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of [batch, K] logits, or squared error when K is 1: [batch]."""
    if logits.shape[1] == 1:
        return (logits[:, 0] - labels).square()
    return F.cross_entropy(logits, labels, reduction="none")


def distillation_losses(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Cross entropy to the teacher's softened distribution, times T^2, or squared error.

    Args:
        logits: the student's, [batch, K].
        target: the teacher's, [batch, K].
        temperature: T, softens both distributions.

    Returns:
        [batch].

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    if logits.shape[1] == 1:
        return (logits - target).square()[:, 0]
    probs = (target / temperature).softmax(-1)
    return F.cross_entropy(logits / temperature, probs, reduction="none") * temperature**2


def label_loss(model: BertForSequenceClassification, sample_weight: Tensor | None = None) -> Loss:
    """Learn the labels."""

    def loss(batch: Batch) -> Tensor:
        logits = model(**inputs_of(batch)).logits.float()
        return weighted_mean(task_losses(logits, batch["labels"]), batch, sample_weight)

    return loss


def prediction_loss(
    model: BertForSequenceClassification,
    teacher_logits: Tensor,
    temperature: float,
    sample_weight: Tensor | None = None,
) -> Loss:
    """Learn the teacher's predictions: `teacher_logits` [n, K], one row a training example."""

    def loss(batch: Batch) -> Tensor:
        logits = model(**inputs_of(batch)).logits.float()
        target = teacher_logits[batch["index"]]
        return weighted_mean(distillation_losses(logits, target, temperature), batch, sample_weight)

    return loss


def hidden_loss(
    model: BertForSequenceClassification,
    teacher: BertForSequenceClassification,
    attention: bool,
    sample_weight: Tensor | None = None,
) -> Loss:
    """Learn the teacher's inner states, layer by layer; padding does not count.

    Mean squared error of the hidden states of every layer, embeddings included, and of the
    attention scores before softmax.

    Args:
        model: the student.
        teacher: as deep as the student, and with as many heads if `attention`.
        attention: whether the scores count too.
        sample_weight: [n], see the module.

    Source: TinyBERT (Jiao et al., 2020), eq. 7 and 8, layer to layer as in TernaryBERT and
    BinaryBERT.
    """
    teacher.eval()

    def loss(batch: Batch) -> Tensor:
        wanted = {"output_hidden_states": True, "output_attentions": attention}
        with torch.no_grad():
            target = teacher(**inputs_of(batch), **wanted)
        output = model(**inputs_of(batch), **wanted)
        real = batch["attention_mask"].float()
        losses: Any = sum(
            _mean_over(real, (ours.float() - theirs.float()).square().mean(-1))
            for ours, theirs in zip(output.hidden_states, target.hidden_states, strict=True)
        )
        if attention:
            pairs = real[:, :, None] * real[:, None, :]
            losses = losses + sum(
                _mean_over(pairs, (ours.float() - theirs.float()).square().mean(1))
                for ours, theirs in zip(output.attentions, target.attentions, strict=True)
            )
        return weighted_mean(losses, batch, sample_weight)

    return loss


def _mean_over(mask: Tensor, values: Tensor) -> Tensor:
    # [batch, ...] to [batch]: the mean over the places where the mask is 1.
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
