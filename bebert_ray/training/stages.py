"""What each stage trains: a function from the finished models before it to a model.

    checkpoint -> teacher -> half -> ternary -> split -> member (many; see `member`)
                  teacher -> binary [-> binary of fewer bits ...] -> member

Which of the two a run takes follows from its bits, see `config.recipes`. Nothing here knows of
Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bebert_ray.config.bits import Bits
from bebert_ray.config.recipes import Stage
from bebert_ray.config.schema import BinaryConfig, HalfConfig, TeacherConfig, TernaryConfig
from bebert_ray.data.batches import epoch_batches
from bebert_ray.data.copies import Copies
from bebert_ray.nn.bert import copy_of, without_dropout
from bebert_ray.nn.binarize import binarize_
from bebert_ray.nn.checkpoint import load_classifier, load_encoder
from bebert_ray.nn.narrow import importance, keep_layers_, narrow_
from bebert_ray.nn.quantizers import calibrate_
from bebert_ray.nn.split import split_, ternarize_
from bebert_ray.training.encoder import fetch_encoder
from bebert_ray.training.losses import Loss, hidden_loss, inputs_of, label_loss, prediction_loss
from bebert_ray.training.predict import batch_on, device_of
from bebert_ray.training.settings import FitSettings
from bebert_ray.training.work import Model, Work

IMPORTANCE_EXAMPLES = 1024  # enough for a stable ranking of heads and neurons
CALIBRATION_EXAMPLES = 64


def train_teacher(work: Work, stage: Stage) -> Model:
    """Fine-tune the checkpoint on the labels; with 0 epochs it is a finished teacher."""
    config, seed = work.config, work.seed(stage.name)
    task, dropout = work.splits.task, config.training.dropout
    checkpoint, source = fetch_encoder(work.directory)
    if config.teacher.epochs == 0:
        model = work.place(load_classifier(checkpoint, task.labels, dropout)).eval()
        model.config._name_or_path = source
        return model
    torch.manual_seed(seed)  # the new classifier
    model = work.place(load_encoder(checkpoint, task.num_labels, dropout))
    model.config._name_or_path = source  # the same in every run directory
    if config.layers is not None:
        keep_layers_(model, config.layers)
    if task.is_regression:
        # From 0, where a new classifier starts, it would take epochs to reach scores far away.
        with torch.no_grad():
            model.classifier.weight *= work.unit
            model.classifier.bias.fill_(float(work.splits.train.labels.mean()))
    loss = label_loss(model, unit=work.unit)
    return _fit(work, model, loss, _settings(work, config.teacher, seed))


def train_half(work: Work, stage: Stage) -> Model:
    """Keep the teacher's best heads and neurons, and distil its hidden states and predictions."""
    config, [parent] = work.config, stage.parents
    teacher = work.parent(parent)
    model = work.place(copy_of(teacher))
    if stage.width < 1:
        narrow_(model, stage.width, importance(teacher, _losses(work, teacher)))
    loss = hidden_loss(model, teacher, temperature=config.training.temperature, unit=work.unit)
    settings = _settings(work, config.half, work.seed(stage.name))
    return _fit(work, model, loss, settings, copies=work.copies(stage))


def train_ternary(work: Work, stage: Stage) -> Model:
    """Ternarize the half model and distil it: hidden states and attention, then predictions."""
    [parent] = stage.parents
    model = without_dropout(work.parent(parent))
    ternarize_(model, Bits.parse(work.config.bits).activations)
    return _distil(work, stage, model, work.config.ternary)


def split_ternary(work: Work, stage: Stage) -> Model:
    """Split every ternary weight into two binary halves; nothing is trained."""
    [parent] = stage.parents
    model = work.parent(parent)
    split_(model)
    return model


def train_binary(work: Work, stage: Stage) -> Model:
    """Binarize the model before and distil it: hidden states and directions, then predictions.

    The model before is the teacher, or one of wider activations, whose latent weights go on.
    """
    assert stage.bits is not None
    [parent], settings = stage.parents, work.config.binary
    model = without_dropout(work.parent(parent))
    binarize_(
        model,
        Bits.parse(stage.bits).activations,
        elastic=settings.activations == "elastic",
        softmax=settings.attention == "softmax",
        two_sets=settings.two_sets,
    )
    return _distil(work, stage, model, settings)


RECIPES: dict[str, Callable[[Work, Stage], Model]] = {
    "teacher": train_teacher,
    "half": train_half,
    "ternary": train_ternary,
    "split": split_ternary,
    "binary": train_binary,
}
"""Of the stages that all members share; `member.RIVALS` has the baselines."""


def match_hidden(
    work: Work,
    model: Model,
    teacher: str,
    settings: FitSettings,
    copies: Copies | None = None,
    sample_weight: np.ndarray | None = None,
    loss_weight: Tensor | None = None,
    round: int | None = None,
    repeats: np.ndarray | None = None,
) -> None:
    """The first phase of a distillation: a teacher's hidden states, and what its kind matches.

    In two phases as in TernaryBERT and BinaryBERT: this one needs the teaching model itself, and
    has no score to choose an epoch by; the next needs its predictions alone.

    Args:
        work: see `Work`.
        model: trained in place, unless the step's checkpoint is past this phase.
        teacher: the stage whose model teaches.
        settings: with 0 epochs, nothing happens.
        copies: of training examples, see `Work.copies`.
        sample_weight: [n] sums to 1, to draw examples with; None: every example once an epoch.
        loss_weight: [n] of mean 1, the weight of each example's loss; None: all the same.
        round: for reports.
        repeats: [n], how often each example comes in an epoch, in place of `sample_weight`.
    """
    if settings.epochs == 0 or work.is_past(0):
        return
    loss = hidden_loss(model, work.parent(teacher), work.kind.match, loss_weight)
    fit = work.open_fit(model, settings, scored=False, copies=copies)
    work.advance(fit, loss, settings.epochs, sample_weight, round, repeats)


def _distil(work: Work, stage: Stage, model: Model, section: TernaryConfig | BinaryConfig) -> Model:
    """Distil the first parent: hidden states, then predictions; or both in one phase (`joint`)."""
    [parent], seed = stage.parents, work.seed(stage.name)
    temperature, copies = work.config.training.temperature, work.copies(stage)
    work.place(model)
    columns = work.splits.train
    first = np.arange(min(len(columns), CALIBRATION_EXAMPLES))
    calibrate_(model.eval(), inputs_of(batch_on(work.device, columns, first)))
    settings = _settings(work, section, seed)
    if section.joint:
        teacher, match = work.parent(parent), work.kind.match
        loss = hidden_loss(model, teacher, match, temperature=temperature, unit=work.unit)
        return _fit(work, model, loss, settings, copies=copies)
    hidden = work.settings(
        section.hidden_epochs, section.hidden_learning_rate, section.batch_size, seed
    )
    match_hidden(work, model, parent, hidden, copies)
    loss = prediction_loss(model, work.predictions_of(parent, copies), temperature, unit=work.unit)
    return _fit(work, model, loss, settings, phase=1, copies=copies)


def _settings(
    work: Work, section: TeacherConfig | HalfConfig | TernaryConfig | BinaryConfig, seed: int
) -> FitSettings:
    return work.settings(section.epochs, section.learning_rate, section.batch_size, seed)


def _fit(
    work: Work,
    model: Model,
    loss: Loss,
    settings: FitSettings,
    phase: int = 0,
    copies: Copies | None = None,
) -> Model:
    fit = work.open_fit(model, settings, phase, copies=copies)
    work.advance(fit, loss, settings.epochs)
    fit.finish()
    return model


def _losses(work: Work, model: Model) -> Iterator[Tensor]:
    # The teacher's loss on a part of train, a batch after another, without dropout.
    columns, loss = work.splits.train, label_loss(model.eval(), unit=work.unit)
    rng = np.random.default_rng(work.seed("importance"))
    chosen = np.sort(rng.permutation(len(columns))[:IMPORTANCE_EXAMPLES])
    sample = columns.take(chosen)
    for index in epoch_batches(sample.lengths, work.config.half.batch_size, rng):
        yield loss(batch_on(device_of(model), sample, index))
