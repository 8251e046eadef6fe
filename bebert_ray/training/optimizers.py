"""Optimizers of a model's parameters, their rates, and the clipping of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bebert_ray.nn.layers import BinaryLinear, SplitLinear
from bebert_ray.nn.quantizers import LEARNED
from bebert_ray.training.settings import FitSettings


def make_optimizers(model: nn.Module, settings: FitSettings) -> list[torch.optim.Optimizer]:
    """AdamW for the dense parameters, SparseAdam for the word embeddings.

    The latent weights of split and binary layers learn at `latent_rate` times the rate of the rest:
    what counts of them is the sign, and a rate at which biases learn leaves most signs as they are.

    Of a 30,000-row table a batch touches some hundred rows: the sparse optimizer moves only these
    (lazy Adam), which saves a third of a step. Biases, LayerNorm and quantizer parameters do not
    decay, the latter have their own learning rate.
    """
    quantizer_parameters = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, LEARNED)
        for parameter in module.parameters()
    }
    latent = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, SplitLinear | BinaryLinear)
        for name, parameter in module.named_parameters(recurse=False)
        if name.startswith("weight")
    }
    latents: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    quantizers: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if "word_embeddings" in name:
            tables.append(parameter)
        elif id(parameter) in quantizer_parameters:
            quantizers.append(parameter)
        elif id(parameter) in latent and settings.latent_rate != 1:
            latents.append(parameter)
        elif parameter.dim() > 1:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain},
        {"params": quantizers, "lr": settings.quantizer_learning_rate},
    ]
    if latents:
        rate = settings.learning_rate * settings.latent_rate
        groups.append({"params": latents, "lr": rate, "weight_decay": settings.weight_decay})
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
