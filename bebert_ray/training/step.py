"""One step of training: forward, backward, clip, update."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bebert_ray.training import parallel
from bebert_ray.training.losses import Batch, Loss
from bebert_ray.training.optimizers import clip_gradients_
from bebert_ray.training.precision import autocast
from bebert_ray.training.predict import device_of
from bebert_ray.training.settings import FitSettings


def train_step(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    optimizers: list[torch.optim.Optimizer],
    settings: FitSettings,
) -> Tensor:
    """One step: forward, backward, clip, update. Returns the loss, [].

    In a data-parallel group each process computes with its share of the batch, and all get what
    the whole batch gives.
    """
    batch, part = parallel.share(batch)
    value = accumulate_(model, loss, batch, settings, part)
    parallel.sum_gradients_(model, part)
    clip_gradients_(model, settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return parallel.total(value)


def accumulate_(
    model: nn.Module, loss: Loss, batch: Batch, settings: FitSettings, part: float = 1.0
) -> Tensor:
    """Add up the gradients of a batch, computed in `settings.accumulate` pieces one after another.

    They are those of the whole batch but for rounding and dropout; the memory is that of a piece.

    Returns:
        The loss times `part`, [].
    """
    count, device = min(settings.accumulate, len(batch["index"])), device_of(model)
    values: list[Tensor] = []
    rooted = parallel.rooted_parameters(model) if count > 1 else []
    sums: dict[nn.Parameter, Tensor] = {}
    for piece in range(count):
        rows = {name: tensor.tensor_split(count)[piece] for name, tensor in batch.items()}
        share = len(rows["index"]) / len(batch["index"])
        with autocast(device, settings.precision):
            value = loss(rows) * (part * share)
        value.backward()
        values.append(value.detach())
        for parameter in rooted:
            if parameter.grad is not None:
                gradient, parameter.grad = parameter.grad * math.sqrt(share), None
                sums[parameter] = sums[parameter] + gradient if parameter in sums else gradient
    for parameter, gradient in sums.items():
        parameter.grad = gradient
    return values[0] if count == 1 else torch.stack(values).sum()
