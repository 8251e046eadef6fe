"""What transformers asks of a packed format: its configuration, and how models load and save it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bebert_ray.errors import UserError
from bebert_ray.packed.layers import pack_

METHOD = "bebert"

Remainder = Literal["fp16", "fp32"]
"""How all that is not binary is saved."""
FLOAT_BITS: dict[str, int] = {"fp16": 16, "fp32": 32}
"""Bits that it takes."""


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The `quantization_config` of a packed model.

    Args:
        remainder: how position and token-type embeddings, LayerNorm, biases, the quantizers'
            parameters and the classifier are saved. Scales are float32 always.
        quant_method: what transformers knows the format by.

    Raises:
        UserError: there is no such remainder or method.
    """

    def __init__(self, remainder: Remainder = "fp16", quant_method: str = METHOD):
        if remainder not in FLOAT_BITS or quant_method != METHOD:
            raise UserError(f"no packed format has remainder {remainder!r} by {quant_method!r}")
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum, of theirs alone
        self.remainder = remainder


@register_quantizer(METHOD)
class PackedQuantizer(HfQuantizer):
    """Loads and saves models whose binary weights are bits."""

    quantization_config: PackedConfig

    def is_serializable(self) -> bool:
        """Packed models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed models cannot be trained."""
        return False

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The arithmetic is float32, whatever is asked for."""
        return torch.float32

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        pack_(model)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, kept in (model.config.shared or {}).items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, model.get_parameter_or_buffer(kept))
        for tensor in (*model.parameters(), *model.buffers()):
            # In a file it lies at any offset, where a matrix product may round differently.
            tensor.data = tensor.data.clone()
        return model.requires_grad_(False)

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors to save: the remainder as wide as asked for, equal ones of members once.

        Notes in the configuration which are shared.

        Raises:
            UserError: a value is too large for 16 bits.
        """
        state = model.state_dict()
        if self.quantization_config.remainder == "fp16":
            state = {name: _narrow(name, tensor) for name, tensor in state.items()}
        model.config.shared = _shared(state)
        for name in model.config.shared:
            del state[name]
        return state, {}


def _narrow(name: str, tensor: Tensor) -> Tensor:
    """A float tensor in 16 bits; scales stay as they are."""
    if not tensor.is_floating_point() or name.endswith(".scales"):
        return tensor
    narrow = tensor.half()
    if narrow.isinf().any():
        raise UserError(f"{name} does not fit in 16 bits; export with export.remainder=fp32")
    return narrow


def _shared(state: dict[str, Tensor]) -> dict[str, str]:
    """Of tensors that are the same, bit by bit, in several members, all but the first."""
    first: dict[tuple[str, torch.dtype, torch.Size, bytes], str] = {}
    shared = {}
    for name, tensor in state.items():
        _, _, own = name.removeprefix("members.").partition(".")
        key = (own, tensor.dtype, tensor.shape, tensor.cpu().contiguous().numpy().tobytes())
        kept = first.setdefault(key, name)
        if kept != name:
            shared[name] = kept
    return shared
