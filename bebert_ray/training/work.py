"""What every stage works with, and what each leaves behind. Nothing here knows of Ray."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers
from torch import Tensor
from transformers import BertForSequenceClassification

from bebert_ray.config import Config
from bebert_ray.config.recipes import Kind, Stage, kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import Copies
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import Task
from bebert_ray.nn.bert import load_model, save_model
from bebert_ray.nn.compiled import uses_compiler
from bebert_ray.nn.costs import costs, total
from bebert_ray.packed.model import finalised
from bebert_ray.packed.quantizer import Remainder
from bebert_ray.storage import Artifact, Location, commit, fetch
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import Checkpoints
from bebert_ray.training.fit import Fit, Progress
from bebert_ray.training.losses import Loss
from bebert_ray.training.predict import predict
from bebert_ray.training.settings import FitSettings
from bebert_ray.version import __version__

LOGITS = "logits.safetensors"

Model = BertForSequenceClassification
Logits = dict[str, np.ndarray]
"""What a model predicts, [n, K] by split, in dataset order."""
Predict = Callable[[Model, Columns, int, str], np.ndarray]
"""From a model, the examples, the size of a batch and the precision to logits [n, K]."""


@dataclass(frozen=True)
class Splits:
    """The tokenised examples of a run.

    Attributes:
        task: what they are examples of.
        train: what models and weights are fitted to.
        selection: what every choice is made on: a held-out part of train, or dev if asked for.
        dev: the reported splits by name, the main one first.
        copies: augmented copies of the training examples; None without `data.augment`.
    """

    task: Task
    train: Columns
    selection: Columns
    dev: dict[str, Columns]
    copies: Copies | None = None

    def named(self) -> dict[str, Columns]:
        """All splits by the names that logits are stored under."""
        return {"train": self.train, "selection": self.selection, **self.dev}


@dataclass(frozen=True)
class Work:
    """What a stage has to work with.

    Attributes:
        config: the run's configuration.
        splits: its examples.
        directory: the run directory, which holds the encoder and the artifacts of the stages
            before.
        checkpoints: those of the step at hand.
        report: called with the progress.
        predict_split: computes the logits of a whole split, perhaps on several processes.
        device: the GPU that this process was given, or the CPU.
    """

    config: Config
    splits: Splits
    directory: Location
    checkpoints: Checkpoints
    report: Callable[[Progress], None] = lambda _: None
    predict_split: Predict = predict
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def kind(self) -> Kind:
        """The kind of the run's members."""
        return kind_of(self.config)

    @property
    def unit(self) -> float:
        """What errors of scores are counted in: the standard deviation of the training labels.

        So scores of 0 to 100 train like scores of 0 to 1. It is 1 for a classification.
        """
        if not self.splits.task.is_regression:
            return 1.0
        return float(self.splits.train.labels.std()) or 1.0  # unless all are the same

    def place(self, model: Any) -> Model:
        """Move a model to the device."""
        return model.to(self.device)

    def parent(self, stage: str) -> Model:
        """The model of a finished stage."""
        return self.place(load_model(fetch(self.directory / stage).path))

    def parent_logits(self, stage: str) -> Tensor:
        """What a finished stage predicts for the training examples, [n, K]."""
        return torch.from_numpy(load_logits(fetch(self.directory / stage).path)["train"]).to(
            self.device
        )

    def predictions_of(self, stage: str, copies: Copies | None) -> Tensor | Model:
        """What `losses.prediction_loss` learns from: a finished stage's predictions, [n, K].

        With `copies` it is the stage's model, since copies were not there when it predicted.
        """
        return self.parent_logits(stage) if copies is None else self.parent(stage)

    def copies(self, stage: Stage) -> Copies | None:
        """The augmented copies that a distilled stage trains with; each trunk has its own."""
        return self.copies_of(stage.trunk, len(self.kind.trunks))

    def copies_of(self, number: int, parts: int) -> Copies | None:
        """One of so many equal parts of the augmented copies; None if there are no copies."""
        copies = self.splits.copies
        return copies if copies is None or parts == 1 else copies.part(number, parts)

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
            copy_share=self.config.data.augment.share,
            checkpoint_every=shared.checkpoint_every,
            accumulate=shared.accumulate,
            max_steps=shared.max_steps,
            eval_every=shared.eval_every,
            patience=shared.patience,
            gradient_checkpointing=shared.gradient_checkpointing,
        )

    def score(self, model: Model) -> Callable[[], float]:
        """Measures the primary metric on the selection split."""
        columns, task = self.splits.selection, self.splits.task
        size = self.config.training.eval_batch_size

        def score() -> float:
            return evaluate(task, predict(model, columns, size), columns.labels)[primary(task)]

        return score

    def is_past(self, phase: int) -> bool:
        """Whether the step's checkpoint is of a later fit than number `phase`."""
        found = self.checkpoints.found
        return found is not None and found.facts["phase"] > phase

    def open_fit(
        self,
        model: Model,
        settings: FitSettings,
        phase: int = 0,
        scored: bool = True,
        flipped: Callable[[], float] | None = None,
        copies: Copies | None = None,
    ) -> Fit:
        """A fit that goes on where the step's checkpoint was taken, or begins.

        Args:
            model: made in the same way as for the checkpoint.
            settings: epochs, rates, seed.
            phase: number of the fit within the step; the checkpoint is not past it.
            scored: whether the weights of the best epoch on the selection split are kept.
            flipped: see `Fit`.
            copies: of training examples; they stand in for them.
        """
        fit = Fit(
            model,
            self.splits.train,
            settings,
            score=self.score(model) if scored else None,
            phase=phase,
            flipped=flipped,
            copies=copies,
        )
        found = self.checkpoints.found
        if found is not None and found.facts["phase"] == phase:
            fit.restore(self.checkpoints.load())
        return fit

    def advance(
        self,
        fit: Fit,
        loss: Loss,
        until: int,
        sample_weight: np.ndarray | None = None,
        round: int | None = None,
        repeats: np.ndarray | None = None,
    ) -> None:
        """Train a round with reports and checkpoints, see `Fit.advance`; `round` is for reports."""
        fit.advance(
            loss,
            until,
            sample_weight,
            repeats=repeats,
            report=lambda progress: self.report(replace(progress, round=round)),
            keep=lambda state: parallel.once(lambda: self.checkpoints.save(state)),
        )


def leave_model(
    work: Work,
    model: Model,
    path: Location,
    stage: str,
    inputs: dict[str, Any],
    more: Mapping[str, Any] | None = None,
    remainder: Remainder | None = None,
) -> tuple[Artifact, Logits]:
    """Leave a trained model at `path` with its logits and scores.

    Args:
        work: see `Work`.
        model: in evaluation mode; moved to the CPU.
        path: directory of the artifact.
        stage: name of the stage.
        inputs: all that the outcome depends on, as JSON.
        more: other facts.
        remainder: of a member, the precision of the file that it ships in: its logits and scores
            are those of the packed member, see `packed.model.finalised`. The artifact holds the
            latent weights all the same.

    Returns:
        The artifact: `config.json`, `model.safetensors`, `logits.safetensors` (one [n, K] array
        a split); its facts hold `scores` (all metrics by split), `bits`, `seconds`, `versions` and
        `compiled`, whether quantizers were (see `nn.compiled`).
        And the logits.
    """
    splits = work.splits.named()
    scored = model if remainder is None else work.place(finalised(model, remainder))
    logits = _predict_all(work, scored, splits, "fp32")
    model.cpu()
    facts = {
        "scores": _scores(work, splits, logits),
        "bits": 8 * total(costs(model)).bytes,
        "seconds": work.checkpoints.seconds,
        "versions": versions(),
        "compiled": uses_compiler(),
    } | dict(more or {})

    def write(directory: Path) -> Mapping[str, Any]:
        save_model(model, directory)
        safetensors.numpy.save_file(logits, directory / LOGITS)
        return facts

    return parallel.once(lambda: commit(path, stage, inputs, write)), logits


def leave_logits(
    work: Work, model: Model, path: Location, stage: str, inputs: dict[str, Any]
) -> tuple[Artifact, Logits]:
    """Leave what boosting needs of a member between two rounds; see `leave_model`.

    Others' weights follow from these logits, and no figure does: they are made as fast as training
    is.

    Returns:
        The artifact: `logits.safetensors` for train and selection; its facts hold `scores` and
        `seconds`. And the logits.
    """
    splits = {"train": work.splits.train, "selection": work.splits.selection}
    logits = _predict_all(work, model, splits, work.config.training.precision)
    facts = {"scores": _scores(work, splits, logits), "seconds": work.checkpoints.seconds}

    def write(directory: Path) -> Mapping[str, Any]:
        safetensors.numpy.save_file(logits, directory / LOGITS)
        return facts

    return commit(path, stage, inputs, write), logits


def load_logits(path: Path) -> Logits:
    """The logits that an artifact holds."""
    return safetensors.numpy.load_file(path / LOGITS)


def versions() -> dict[str, str]:
    """What a figure depends on besides the configuration."""
    return {
        "bebert_ray": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def _predict_all(work: Work, model: Model, splits: dict[str, Columns], precision: str) -> Logits:
    size = work.config.training.eval_batch_size
    return {
        name: work.predict_split(model, columns, size, precision)
        for name, columns in splits.items()
    }


def _scores(work: Work, splits: dict[str, Columns], logits: Logits) -> dict[str, dict[str, float]]:
    return {
        name: evaluate(work.splits.task, logits[name], columns.labels)
        for name, columns in splits.items()
    }
