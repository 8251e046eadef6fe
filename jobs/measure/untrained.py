"""A member as its training starts, without the training that comes before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


TERNARY = ("1-1-8", "1-1-4")  # members that are split from a ternary model


def untrained(
    checkpoint: str, bits: str, batch: dict[str, torch.Tensor], labels: int, split: bool = True
) -> Any:
    """The model that a member starts as: split from a ternary one, or fully binary.

    Args:
        checkpoint: the encoder.
        bits: of weights, embeddings and activations, such as 1-1-4.
        batch: tensors of the encoder's inputs, which the quantizers are calibrated with.
        labels: how many classes.
        split: False for the ternary model itself, at half width, where there is one.
    """
    from bebert_ray.config.bits import Bits
    from bebert_ray.nn.bert import without_dropout
    from bebert_ray.nn.binarize import binarize_
    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
    from bebert_ray.nn.narrow import narrow_
    from bebert_ray.nn.quantizers import calibrate_
    from bebert_ray.nn.split import split_, ternarize_

    model = without_dropout(load_encoder(find_checkpoint(checkpoint), labels, dropout=0.0)).eval()
    activations = Bits.parse(bits).activations
    ternary = bits in TERNARY
    if ternary:
        narrow_(model, 0.5)
        ternarize_(model, activations)
    else:
        binarize_(model, activations)
    calibrate_(model, batch)
    if ternary and split:
        split_(model)
    return model
