"""What each stage trains: a function from the finished models before it to a model.

    checkpoint -> teacher -> half -> ternary -> split -> member (many)

Nothing here knows of Ray. `run_stage` turns a function into an artifact: the model, its logits on
every split, and its scores.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers
from torch import Tensor
from transformers import BertForSequenceClassification

import bebert_ray
from bebert_ray.config import Config
from bebert_ray.data.batches import collate, epoch_batches
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import Task
from bebert_ray.deploy.size import model_size
from bebert_ray.models.bert import (
    Checkpoint,
    copy_of,
    load_encoder,
    load_model,
    save_model,
    without_dropout,
)
from bebert_ray.models.split import split_, ternarize_
from bebert_ray.models.width import importance, narrow_
from bebert_ray.quant.quantizers import calibrate_
from bebert_ray.storage import Artifact, commit
from bebert_ray.training.fit import FitSettings, Progress, device_of, fit, predict, to_device
from bebert_ray.training.losses import Loss, hidden_loss, inputs_of, label_loss, prediction_loss

IMPORTANCE_EXAMPLES = 1024  # enough for a stable ranking of heads and neurons
CALIBRATION_EXAMPLES = 64

Model = BertForSequenceClassification


@dataclass(frozen=True)
class Splits:
    """The tokenised examples of a run.

    Attributes:
        task: what they are examples of.
        train: what models and weights are fitted to.
        selection: what every choice is made on: a held-out part of train, or dev if asked for.
        dev: the reported splits by name, the main one first.
    """

    task: Task
    train: Columns
    selection: Columns
    dev: dict[str, Columns]

    def named(self) -> dict[str, Columns]:
        """All splits by the names that logits are stored under."""
        return {"train": self.train, "selection": self.selection, **self.dev}


@dataclass(frozen=True)
class Work:
    """What a stage has to work with.

    Attributes:
        config: the run's configuration.
        splits: its examples.
        checkpoint: the encoder to start from.
        directory: the run directory, which holds the artifacts of the stages before.
        report: told of the progress.
    """

    config: Config
    splits: Splits
    checkpoint: Checkpoint
    directory: Path
    report: Callable[[Progress], None] = lambda _: None

    @property
    def device(self) -> torch.device:
        """The GPU that this process may use, or the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def place(self, model: Any) -> Model:
        """Move a model to the device."""
        return model.to(self.device)

    def parent(self, stage: str) -> Model:
        """The model of a finished stage."""
        return self.place(load_model(self.directory / stage))

    def parent_logits(self, stage: str) -> Tensor:
        """What a finished stage predicts for the training examples, [n, K]."""
        return torch.from_numpy(load_logits(self.directory / stage)["train"]).to(self.device)

    def seed(self, *parts: object) -> int:
        """A seed of its own for each part of the run, from the run's seed."""
        text = "/".join(map(str, (self.config.seed, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def settings(
        self, epochs: int, learning_rate: float, batch_size: int, seed: int
    ) -> FitSettings:
        """The numbers of one fit together with those that all fits share."""
        shared = self.config.training
        return FitSettings(
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            precision=shared.precision,
            warmup=shared.warmup,
            weight_decay=shared.weight_decay,
            max_grad_norm=shared.max_grad_norm,
            quantizer_learning_rate=shared.quantizer_learning_rate,
        )

    def predict(self, model: Model, columns: Columns) -> np.ndarray:
        """Logits [n, K] in dataset order."""
        return predict(model, columns, self.config.training.eval_batch_size)

    def score(self, model: Model) -> Callable[[], float]:
        """Measures the primary metric on the selection split."""
        columns, task = self.splits.selection, self.splits.task
        return lambda: evaluate(task, self.predict(model, columns), columns.labels)[primary(task)]


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
    return _distil(
        work,
        model,
        stage.hidden_epochs,
        stage.hidden_learning_rate,
        work.settings(stage.epochs, stage.learning_rate, stage.batch_size, work.seed("ternary")),
    )


def split_ternary(work: Work) -> Model:
    """Split every ternary weight into two binary halves; nothing is trained."""
    model = work.parent("ternary")
    split_(model)
    return model


def train_member(work: Work, sample_weight: np.ndarray, member: int) -> Model:
    """Train one binary model from the split checkpoint.

    Args:
        work: see `Work`.
        sample_weight: [n] of the training examples, in dataset order, sums to 1.
        member: number of the member, part of its seed.
    """
    config, stage = work.config, work.config.member
    model = work.parent("split")
    settings = work.settings(
        stage.epochs, stage.learning_rate, stage.batch_size, work.seed("member", member)
    )
    draw: np.ndarray | None = sample_weight
    weight: Tensor | None = None
    if config.ensemble.sample_weight == "loss":
        weights = torch.from_numpy(sample_weight * len(sample_weight))
        draw, weight = None, weights.float().to(work.device)
    elif np.ptp(sample_weight) == 0:
        draw = None  # drawing from equal weights would only leave examples out
    strategy = config.ensemble.strategy
    if strategy == "A":
        return _fit(work, model, label_loss(model, weight), settings, draw)
    return _distil(
        work,
        model,
        stage.hidden_epochs if strategy == "C" else 0,
        stage.hidden_learning_rate,
        settings,
        draw,
        weight,
    )


STAGES: dict[str, Callable[[Work], Model]] = {
    "teacher": train_teacher,
    "half": train_half,
    "ternary": train_ternary,
    "split": split_ternary,
}


def run_stage(
    work: Work, path: Path, stage: str, inputs: dict[str, Any], train: Callable[[], Model]
) -> Artifact:
    """Train a model and leave it at `path` with its logits and scores.

    Args:
        work: see `Work`.
        path: directory of the artifact.
        stage: name of the stage.
        inputs: all that the outcome depends on, as JSON.
        train: makes the model.

    Returns:
        The artifact: `config.json`, `model.safetensors`, `logits.safetensors` (one [n, K] array
        a split); its facts hold `scores` (all metrics by split), `bits`, `seconds` and `versions`.
    """
    started = time.monotonic()
    model = train()
    splits = work.splits.named()
    logits = {name: work.predict(model, columns) for name, columns in splits.items()}
    model.cpu()
    facts = {
        "scores": {
            name: evaluate(work.splits.task, logits[name], columns.labels)
            for name, columns in splits.items()
        },
        "bits": model_size(model).bits,
        "seconds": time.monotonic() - started,
        "versions": versions(),
    }

    def write(directory: Path) -> Mapping[str, Any]:
        save_model(model, directory)
        safetensors.numpy.save_file(logits, directory / "logits.safetensors")
        return facts

    return commit(path, stage, inputs, write)


def load_logits(path: Path) -> dict[str, np.ndarray]:
    """The logits [n, K] of a finished stage by split."""
    return safetensors.numpy.load_file(path / "logits.safetensors")


def activation_bits(bits: str) -> int:
    """The A of a W-E-A triple such as 1-1-8."""
    return int(bits.split("-")[2])


def versions() -> dict[str, str]:
    """What a figure depends on besides the configuration."""
    return {
        "bebert_ray": bebert_ray.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def _fit(
    work: Work,
    model: Model,
    loss: Loss,
    settings: FitSettings,
    draw: np.ndarray | None = None,
) -> Model:
    fit(
        model,
        work.splits.train,
        loss,
        settings,
        sample_weight=draw,
        score=work.score(model),
        report=work.report,
    )
    return model


def _distil(
    work: Work,
    model: Model,
    hidden_epochs: int,
    hidden_learning_rate: float,
    settings: FitSettings,
    draw: np.ndarray | None = None,
    weight: Tensor | None = None,
) -> Model:
    # From the half model, in two stages as in TernaryBERT and BinaryBERT: the first needs the model
    # itself and has no score to choose an epoch by, the second its predictions alone.
    if hidden_epochs:
        first = work.settings(
            hidden_epochs, hidden_learning_rate, settings.batch_size, settings.seed
        )
        teacher = work.parent("half")
        loss = hidden_loss(model, teacher, attention=True, sample_weight=weight)
        fit(model, work.splits.train, loss, first, sample_weight=draw, report=work.report)
    temperature = work.config.training.temperature
    loss = prediction_loss(model, work.parent_logits("half"), temperature, weight)
    return _fit(work, model, loss, settings, draw)


def _losses(work: Work, model: Model) -> Iterator[Tensor]:
    # The teacher's loss on a part of train, a batch after another, without dropout.
    columns, loss = work.splits.train, label_loss(model.eval())
    rng = np.random.default_rng(work.seed("importance"))
    chosen = np.sort(rng.permutation(len(columns))[:IMPORTANCE_EXAMPLES])
    sample = columns.take(chosen)
    for index in epoch_batches(sample.lengths, work.config.half.batch_size, rng):
        yield loss(to_device(collate(sample, index), device_of(model)))
