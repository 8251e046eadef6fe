"""Losses of the stages: a loss is a function from a batch to a scalar that closes over its models.

Every loss averages over examples. `sample_weight` [n] (mean 1 over the training set) is looked up
by the example index that each batch carries, never by position, so no shuffling can misdirect it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
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


def task_losses(logits: Tensor, labels: Tensor, unit: float = 1.0) -> Tensor:
    """Cross entropy of [batch, K] logits, or squared error in `unit`s when K is 1: [batch]."""
    if logits.shape[1] == 1:
        return ((logits[:, 0] - labels) / unit).square()
    return F.cross_entropy(logits, labels, reduction="none")


def distillation_losses(
    logits: Tensor, target: Tensor, temperature: float, unit: float = 1.0
) -> Tensor:
    """Cross entropy to the teacher's softened distribution, times T^2, or squared error.

    Args:
        logits: the student's, [batch, K].
        target: the teacher's, [batch, K].
        temperature: T, softens both distributions.
        unit: of the error when K is 1.

    Returns:
        [batch].

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    if logits.shape[1] == 1:
        return ((logits - target) / unit).square()[:, 0]
    probs = (target / temperature).softmax(-1)
    return F.cross_entropy(logits / temperature, probs, reduction="none") * temperature**2


def label_loss(
    model: BertForSequenceClassification, sample_weight: Tensor | None = None, unit: float = 1.0
) -> Loss:
    """Learn the labels; see `task_losses`."""

    def loss(batch: Batch) -> Tensor:
        logits = model(**inputs_of(batch)).logits.float()
        return weighted_mean(task_losses(logits, batch["labels"], unit), batch, sample_weight)

    return loss


def prediction_loss(
    model: BertForSequenceClassification,
    teacher: Tensor | BertForSequenceClassification,
    temperature: float,
    sample_weight: Tensor | None = None,
    unit: float = 1.0,
) -> Loss:
    """Learn a teacher's predictions.

    Args:
        model: the student.
        teacher: what it has predicted, [n, K], one row a training example; or the model itself,
            which is asked about each batch (copies of examples have no row).
        temperature: see `distillation_losses`.
        sample_weight: [n], see the module.
        unit: see `distillation_losses`.
    """
    if not isinstance(teacher, Tensor):
        teacher.eval()

    def loss(batch: Batch) -> Tensor:
        logits = model(**inputs_of(batch)).logits.float()
        if isinstance(teacher, Tensor):
            target = teacher[batch["index"]]
        else:
            with torch.no_grad():
                target = teacher(**inputs_of(batch)).logits.float()
        losses = distillation_losses(logits, target, temperature, unit)
        return weighted_mean(losses, batch, sample_weight)

    return loss


def hidden_loss(
    model: BertForSequenceClassification,
    teacher: BertForSequenceClassification,
    match: Literal["scores", "directions"] | None = None,
    sample_weight: Tensor | None = None,
    temperature: float | None = None,
    unit: float = 1.0,
) -> Loss:
    """Learn the teacher's inner states, layer by layer; padding does not count.

    Mean squared error of the hidden states of every layer, embeddings included, and beside it

    * `scores`: mean squared error of the attention scores before softmax;
    * `directions`: see `direction_losses`.

    Args:
        model: the student.
        teacher: as deep as the student, and with as many heads if anything is to `match`.
        match: what counts beside the hidden states.
        sample_weight: [n], see the module.
        temperature: learn the teacher's predictions too, in the same pass, with
            `distillation_losses` of this temperature; None: the inner states alone.
        unit: see `distillation_losses`.

    Source: TinyBERT (Jiao et al., 2020), eq. 7 and 8, layer to layer as in TernaryBERT and
    BinaryBERT.
    """
    teacher.eval()

    def loss(batch: Batch) -> Tensor:
        wanted = {"output_hidden_states": True, "output_attentions": match == "scores"}
        with projections(teacher) as theirs, torch.no_grad():
            target = teacher(**inputs_of(batch), **wanted)
        with projections(model) as ours:
            output = model(**inputs_of(batch), **wanted)
        real = batch["attention_mask"].float()
        pairs = real[:, :, None] * real[:, None, :]
        losses: Any = sum(
            _mean_over(real, (a.float() - b.float()).square().mean(-1))
            for a, b in zip(output.hidden_states, target.hidden_states, strict=True)
        )
        if match == "scores":
            losses = losses + sum(
                _mean_over(pairs, (a.float() - b.float()).square().mean(1))
                for a, b in zip(output.attentions, target.attentions, strict=True)
            )
        if match == "directions":
            losses = losses + sum(
                direction_losses(a, b, pairs) for a, b in zip(ours, theirs, strict=True)
            )
        if temperature is not None:
            logits = output.logits.float()
            wished = target.logits.float()
            losses = losses + distillation_losses(logits, wished, temperature, unit)
        return weighted_mean(losses, batch, sample_weight)

    return loss


def direction_losses(ours: Tensor, theirs: Tensor, pairs: Tensor) -> Tensor:
    """How far the tokens of a sentence differ in what they resemble: direction matching.

    With ``R = X X^T / |X X^T|``, X the queries, keys or values of a head and |.| the Frobenius
    norm, the mean over heads of ``|R_ours - R_theirs|^2``, from 0 to 2. Norms say little of a
    binarized projection: only directions count.

    Args:
        ours: projections of the student, [batch, heads, tokens, head_size].
        theirs: of the teacher, of the same shape up to head_size.
        pairs: 1 where both tokens are real, [batch, tokens, tokens].

    Returns:
        [batch].

    Source: direction-matching distillation of BiBERT (Qin et al., 2022), eq. 11 to 13; there the
    norm itself is taken, not its square.
    """

    def resemblance(x: Tensor) -> Tensor:
        products = torch.matmul(x, x.transpose(2, 3)).float() * pairs[:, None]
        return products / (products.square().sum((2, 3), keepdim=True) + 1e-12).sqrt()

    return (resemblance(ours) - resemblance(theirs)).square().sum((2, 3)).mean(1)


@contextmanager
def projections(model: BertForSequenceClassification) -> Iterator[list[Tensor]]:
    """Collects queries, keys and values of each layer, before they are quantized.

    Yields:
        A list that a forward pass within the context fills, [batch, heads, tokens, head_size] each.
    """
    collected: list[Tensor] = []
    layers: Any = model.bert.encoder.layer

    def collect(heads: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            collected.append(output.unflatten(-1, (heads, -1)).transpose(1, 2))

        return hook

    with ExitStack() as hooks:
        for layer in layers:
            attention = layer.attention.self
            for linear in (attention.query, attention.key, attention.value):
                handle = linear.register_forward_hook(collect(attention.num_attention_heads))
                hooks.callback(handle.remove)
        yield collected


def _mean_over(mask: Tensor, values: Tensor) -> Tensor:
    # [batch, ...] to [batch]: the mean over the places where the mask is 1.
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
