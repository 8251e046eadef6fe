"""The numbers of a fit."""

from __future__ import annotations

from dataclasses import dataclass


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
    latent_rate: float = 1.0
    copy_share: float = 0.5
    checkpoint_every: int = 500
    accumulate: int = 1
    max_steps: int | None = None
    eval_every: int | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False
