"""Logits of a model for a split of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from bebert_ray.data.batches import collate, eval_batches, pad_multiple
from bebert_ray.data.columns import Columns
from bebert_ray.training import parallel
from bebert_ray.training.losses import Batch, inputs_of
from bebert_ray.training.precision import autocast


def predict(
    model: Any, columns: Columns, batch_size: int = 128, precision: str = "fp32"
) -> np.ndarray:
    """Logits [n, K] of every example, in dataset order, in float32 and without dropout.

    The processes of a data-parallel group share the batches, and all get all logits. With
    `precision` bf16 matrix products are in bfloat16, as in training: two to three times as fast.
    """
    batches, size = eval_batches(columns.lengths, batch_size), parallel.size()
    shares = [batches[rank::size] for rank in range(size)]
    mine = torch.from_numpy(predict_batches(model, columns, shares[parallel.rank()], precision))
    return in_order(parallel.gather(mine).numpy(), [index for share in shares for index in share])


@torch.no_grad()
def predict_batches(
    model: Any, columns: Columns, batches: list[np.ndarray], precision: str = "fp32"
) -> np.ndarray:
    """Logits [., K] of the batches' examples, in the batches' order; see `predict`."""
    model.eval()
    device = device_of(model)
    logits = [np.zeros((0, model.config.num_labels), dtype=np.float32)]
    for index in batches:
        batch = inputs_of(batch_on(device, columns, index))
        with autocast(device, precision):
            logits.append(model(**batch).logits.float().cpu().numpy())
    return np.concatenate(logits)


def in_order(logits: np.ndarray, batches: list[np.ndarray]) -> np.ndarray:
    """From the order of batches that hold every example once to that of the dataset."""
    ordered = np.empty_like(logits)
    ordered[np.concatenate(batches)] = logits
    return ordered


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def batch_on(device: torch.device, columns: Columns, index: np.ndarray) -> Batch:
    """The examples `index` as a batch on `device`.

    A GPU copies it from pinned memory while the CPU goes on.
    """
    batch = collate(columns, index, pad_multiple(device))
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
