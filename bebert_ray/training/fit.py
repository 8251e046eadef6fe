"""The only training loop: batches by example index, mixed precision, the best epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bebert_ray.data.batches import collate, epoch_batches, eval_batches
from bebert_ray.data.columns import Columns
from bebert_ray.errors import RunError
from bebert_ray.quant.quantizers import LsqQuantizer, UniformQuantizer
from bebert_ray.training.losses import Batch, Loss, inputs_of

REPORT_EVERY = 2.0  # seconds


@dataclass(frozen=True)
class FitSettings:
    """How to fit: the numbers of one stage, and those that all stages share."""

    epochs: int
    learning_rate: float
    batch_size: int = 32
    seed: int = 42
    precision: str = "bf16"
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    quantizer_learning_rate: float = 1e-4


@dataclass(frozen=True)
class Progress:
    """Where a fit stands; `score` is the held-out one, at the end of an epoch only."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    examples_per_second: float
    score: float | None = None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in bfloat16 if `precision` is bf16; all else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fit(
    model: nn.Module,
    columns: Columns,
    loss: Loss,
    settings: FitSettings,
    *,
    sample_weight: np.ndarray | None = None,
    score: Callable[[], float] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> float | None:
    """Train `model` in place.

    Args:
        model: what `loss` computes with; left in evaluation mode, with the weights of its best
            epoch.
        columns: the training examples; a batch's `index` are their rows.
        loss: from a batch to a scalar.
        settings: epochs, rates, seed.
        sample_weight: [n] sums to 1; each epoch then draws n examples with these probabilities.
            None: every example once.
        score: measured at the end of each epoch, higher is better; the weights of the best epoch
            are kept (the earliest of equals). None keeps the last.
        report: called every few seconds and at the end of each epoch.

    Returns:
        The best score, or None without `score`.

    Raises:
        RunError: the loss is no longer finite.
    """
    device = device_of(model)
    torch.manual_seed(settings.seed)
    steps_per_epoch = math.ceil(len(columns) / settings.batch_size)
    optimizers = make_optimizers(model, settings)
    schedules = [
        LambdaLR(optimizer, linear_schedule(settings.epochs * steps_per_epoch, settings.warmup))
        for optimizer in optimizers
    ]
    best_score, best_weights = None, None
    step, last_report, started = 0, time.monotonic(), time.monotonic()
    for epoch in range(settings.epochs):
        model.train()
        rng = np.random.default_rng([settings.seed, epoch])
        recent: list[Tensor] = []
        for index in epoch_batches(columns.lengths, settings.batch_size, rng, sample_weight):
            batch = to_device(collate(columns, index), device)
            value = train_step(model, loss, batch, optimizers, settings)
            for schedule in schedules:
                schedule.step()
            step += 1
            recent.append(value)
            if time.monotonic() - last_report > REPORT_EVERY:
                last_report = time.monotonic()
                report(
                    _progress(settings, epoch, step, steps_per_epoch, recent, schedules, started)
                )
                recent = recent[-1:]
        progress = _progress(settings, epoch, step, steps_per_epoch, recent, schedules, started)
        if score is not None:
            model.eval()
            reached = score()
            progress = replace(progress, score=reached)
            if best_score is None or reached > best_score:
                best_score = reached
                if epoch + 1 < settings.epochs:  # the last epoch's weights are in the model
                    best_weights = {
                        name: tensor.clone() for name, tensor in model.state_dict().items()
                    }
                else:
                    best_weights = None
        report(progress)
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
    return best_score


def train_step(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
    settings: FitSettings,
) -> Tensor:
    """One step: forward, backward, clip, update. Returns the loss, []."""
    with autocast(device_of(model), settings.precision):
        value = loss(batch)
    value.backward()
    clip_gradients_(model, settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return value.detach()


@torch.no_grad()
def predict(model: Any, columns: Columns, batch_size: int = 128) -> np.ndarray:
    """Logits [n, K] of every example, in dataset order, in float32 and without dropout."""
    model.eval()
    device = device_of(model)
    logits = np.zeros((len(columns), model.config.num_labels), dtype=np.float32)
    for index in eval_batches(columns.lengths, batch_size):
        batch = to_device(inputs_of(collate(columns, index)), device)
        logits[index] = model(**batch).logits.float().cpu().numpy()
    return logits


def make_optimizers(model: nn.Module, settings: FitSettings) -> list[torch.optim.Optimizer]:
    """AdamW for the dense parameters, SparseAdam for the word embeddings.

    Of a 30,000-row table a batch touches some hundred rows: the sparse optimizer moves only these
    (lazy Adam), which saves a third of a step. Biases, LayerNorm and quantizer parameters do not
    decay, the latter have their own learning rate.
    """
    quantizer_parameters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, LsqQuantizer | UniformQuantizer)
        for parameter in module.parameters()
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    quantizers: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if "word_embeddings" in name:
            tables.append(parameter)
        elif id(parameter) in quantizer_parameters:
            quantizers.append(parameter)
        elif parameter.dim() > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain},
        {"params": quantizers, "lr": settings.quantizer_learning_rate},
    ]
    dense = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    return [dense, torch.optim.SparseAdam(tables, lr=settings.learning_rate)]


def linear_schedule(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate: up to 1 over the first `warmup` of the steps, then down to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor


def clip_gradients_(model: nn.Module, max_norm: float) -> None:
    """Scale all gradients, dense and sparse, so that their common norm is at most `max_norm`."""
    values = []
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:  # rows that occur twice must be added before they are measured
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    scale = (max_norm / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)


def _progress(
    settings: FitSettings,
    epoch: int,
    step: int,
    steps_per_epoch: int,
    recent: list[Tensor],
    schedules: list[LambdaLR],
    started: float,
) -> Progress:
    loss = torch.stack(recent).mean().item()
    if not math.isfinite(loss):
        raise RunError(f"the loss became {loss} at step {step}; a lower learning rate may help")
    return Progress(
        epoch=epoch + 1,
        epochs=settings.epochs,
        step=step,
        steps=settings.epochs * steps_per_epoch,
        loss=loss,
        learning_rate=float(schedules[0].get_last_lr()[0]),
        examples_per_second=step * settings.batch_size / (time.monotonic() - started),
    )
