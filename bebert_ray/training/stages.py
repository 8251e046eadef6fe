"""What each stage trains: a function from the finished models before it to a model.

    checkpoint -> teacher -> half -> ternary -> split -> member (many; see `member`)

Nothing here knows of Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bebert_ray.data.batches import collate, epoch_batches
from bebert_ray.models.bert import copy_of, load_encoder, without_dropout
from bebert_ray.models.split import split_, ternarize_
from bebert_ray.models.width import importance, narrow_
from bebert_ray.quant.quantizers import calibrate_
from bebert_ray.training.fit import FitSettings, device_of, to_device
from bebert_ray.training.losses import Loss, hidden_loss, inputs_of, label_loss, prediction_loss
from bebert_ray.training.work import Model, Work

IMPORTANCE_EXAMPLES = 1024  # enough for a stable ranking of heads and neurons
CALIBRATION_EXAMPLES = 64


def train_teacher(work: Work) -> Model:
    """Fine-tune the checkpoint on the labels."""
    config, seed = work.config, work.seed("teacher")
    torch.manual_seed(seed)  # the new classifier
    num_labels = work.splits.task.num_labels
    model = work.place(load_encoder(work.checkpoint, num_labels, config.training.dropout))
    stage = config.teacher
    settings = work.settings(stage.epochs, stage.learning_rate, stage.batch_size, seed)
    return _fit(work, model, label_loss(model), settings)


def train_half(work: Work) -> Model:
    """Keep the teacher's best heads and neurons, and distil its hidden states and predictions."""
    config, teacher = work.config, work.parent("teacher")
    model = work.place(copy_of(teacher))
    if config.width < 1:
        narrow_(model, config.width, importance(teacher, _losses(work, teacher)))
    stage = config.half
    settings = work.settings(stage.epochs, stage.learning_rate, stage.batch_size, work.seed("half"))
    hidden = hidden_loss(model, teacher, attention=False)
    prediction = prediction_loss(model, work.parent_logits("teacher"), config.training.temperature)
    return _fit(work, model, lambda batch: hidden(batch) + prediction(batch), settings)


def train_ternary(work: Work) -> Model:
    """Ternarize the half model and distil it: hidden states and attention, then predictions."""
    config, stage = work.config, work.config.ternary
    model = without_dropout(work.parent("half"))
    ternarize_(model, activation_bits(config.bits))
    work.place(model)
    columns = work.splits.train
    first = collate(columns, np.arange(min(len(columns), CALIBRATION_EXAMPLES)))
    calibrate_(model.eval(), to_device(inputs_of(first), work.device))
    seed = work.seed("ternary")
    match_hidden(
        work,
        model,
        work.settings(stage.hidden_epochs, stage.hidden_learning_rate, stage.batch_size, seed),
    )
    settings = work.settings(stage.epochs, stage.learning_rate, stage.batch_size, seed)
    loss = prediction_loss(model, work.parent_logits("half"), config.training.temperature)
    return _fit(work, model, loss, settings, phase=1)


def split_ternary(work: Work) -> Model:
    """Split every ternary weight into two binary halves; nothing is trained."""
    model = work.parent("ternary")
    split_(model)
    return model


STAGES: dict[str, Callable[[Work], Model]] = {
    "teacher": train_teacher,
    "half": train_half,
    "ternary": train_ternary,
    "split": split_ternary,
}


def activation_bits(bits: str) -> int:
    """The A of a W-E-A triple such as 1-1-8."""
    return int(bits.split("-")[2])


def match_hidden(
    work: Work,
    model: Model,
    settings: FitSettings,
    sample_weight: np.ndarray | None = None,
    loss_weight: Tensor | None = None,
    round: int | None = None,
) -> None:
    """The first phase of a distillation: hidden states and attention scores of the half model.

    In two phases as in TernaryBERT and BinaryBERT: this one needs the teaching model itself, and
    has no score to choose an epoch by; the next needs its predictions alone.

    Args:
        work: see `Work`.
        model: trained in place, unless the step's checkpoint is past this phase.
        settings: with 0 epochs, nothing happens.
        sample_weight: [n] sums to 1, to draw examples with; None: every example once an epoch.
        loss_weight: [n] of mean 1, the weight of each example's loss; None: all the same.
        round: for reports.
    """
    if settings.epochs == 0 or work.is_past(0):
        return
    loss = hidden_loss(model, work.parent("half"), True, loss_weight)
    fit = work.open_fit(model, settings, scored=False)
    work.advance(fit, loss, settings.epochs, sample_weight, round)


def _fit(work: Work, model: Model, loss: Loss, settings: FitSettings, phase: int = 0) -> Model:
    fit = work.open_fit(model, settings, phase)
    work.advance(fit, loss, settings.epochs)
    fit.finish()
    return model


def _losses(work: Work, model: Model) -> Iterator[Tensor]:
    # The teacher's loss on a part of train, a batch after another, without dropout.
    columns, loss = work.splits.train, label_loss(model.eval())
    rng = np.random.default_rng(work.seed("importance"))
    chosen = np.sort(rng.permutation(len(columns))[:IMPORTANCE_EXAMPLES])
    sample = columns.take(chosen)
    for index in epoch_batches(sample.lengths, work.config.half.batch_size, rng):
        yield loss(to_device(collate(sample, index), device_of(model)))
