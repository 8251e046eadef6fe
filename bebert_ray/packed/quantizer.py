"""The packed format for transformers: its configuration, and how models load and save it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bebert_ray.errors import UserError
from bebert_ray.nn.model_files import refusing
from bebert_ray.packed.layers import pack_

METHOD = "bebert"

Remainder = Literal["fp16", "fp32"]
"""How all tensors that are not binary are stored."""
FLOAT_BITS: dict[str, int] = {"fp16": 16, "fp32": 32}
"""Bits of a number of the remainder."""


@register_quantization_config(METHOD)
class PackedConfig(QuantizationConfigMixin):
    """The `quantization_config` of a packed model.

    Args:
        remainder: how position and token-type embeddings, LayerNorm, biases, the quantizers'
            parameters and the classifier are stored. Scales are always float32.
        quant_method: the name of the format.

    Raises:
        UserError: there is no such remainder or method.

    Examples:
        >>> PackedConfig("fp32").remainder
        'fp32'
    """

    def __init__(self, remainder: Remainder = "fp16", quant_method: str = METHOD):
        if remainder not in FLOAT_BITS or quant_method != METHOD:
            raise UserError(
                f"no packed format has remainder {str(remainder)[:40]!r} by "
                f"{str(quant_method)[:40]!r}; remainder is one of {list(FLOAT_BITS)}"
            )
        self.quant_method = quant_method  # type: ignore[assignment]  # transformers has an enum
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
        """Models are loaded in float32, whatever dtype is asked for."""
        return torch.float32

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        pack_(model)
        if checkpoint_files is not None:
            check_tensors(model, checkpoint_files)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, kept in (model.config.shared or {}).items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, model.get_parameter_or_buffer(kept))
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"{name} of the packed model holds values that are not finite")
            # In a file it lies at any offset, where a matrix product may round differently.
            tensor.data = tensor.data.clone()
        return model.requires_grad_(False)

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors to save: the remainder in its width, equal tensors of members once.

        The configuration lists the tensors that members share.

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


@torch.no_grad()
def round_(member: nn.Module, remainder: Remainder) -> None:
    """Round all that is not binary to what a file holds of it, in place.

    Args:
        member: whose layers are packed.
        remainder: `fp16` rounds to 16 bits; scales stay as they are. `fp32` changes nothing.

    Raises:
        UserError: a value is too large for 16 bits.
    """
    if remainder == "fp16":
        for name, tensor in (*member.named_parameters(), *member.named_buffers()):
            tensor.copy_(_narrow(name, tensor))


def check_tensors(model: Any, files: Sequence[str]) -> None:
    """Compare the tensors in files with those that a packed model has, before they are loaded.

    Args:
        model: a `BebertForSequenceClassification` on any device, without weights.
        files: paths of safetensors files.

    Raises:
        UserError: a tensor is missing or unexpected, has another shape or type, or is listed as
            shared with one that does not fit; the message names it.
    """
    wanted: dict[str, Tensor] = model.state_dict()
    shared: dict[str, str] = model.config.shared or {}
    stored = stored_tensors(files)
    for name, kept in shared.items():
        fits = name in wanted and kept in wanted and kept not in shared
        if not fits or wanted[name].shape != wanted[kept].shape:
            raise UserError(
                f"config.json of the packed model: shared: {name[:100]} cannot be {kept[:100]}"
            )
    needed = {name: tensor for name, tensor in wanted.items() if name not in shared}
    for problem, names in (
        ("lacks the tensor", needed.keys() - stored.keys()),
        ("has the unexpected tensor", stored.keys() - needed.keys()),
    ):
        if names:
            count = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"the packed model {problem} {min(names)[:100]}{count}")
    for name, tensor in needed.items():
        shape, dtype = stored[name]
        types = _TYPES["scales" if name.endswith(".scales") else str(tensor.dtype)]
        if shape != list(tensor.shape) or dtype not in types:
            raise UserError(
                f"the packed model's tensor {name} is {dtype} {str(shape)[:60]}, not "
                f"{' or '.join(types)} {list(tensor.shape)}: it does not fit config.json"
            )


def stored_tensors(files: Iterable[str]) -> dict[str, tuple[list[int], str]]:
    """The shape and type of each tensor in safetensors files."""
    stored: dict[str, tuple[list[int], str]] = {}
    for path in files:
        with refusing(f"{path} is damaged: "), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dict
                tensor = file.get_slice(name)
                stored[name] = tensor.get_shape(), tensor.get_dtype()
    return stored


_TYPES = {"torch.uint8": ("U8",), "scales": ("F32",), "torch.float32": ("F16", "F32")}
"""Types that a tensor can have in a file, by what it is in memory."""


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
