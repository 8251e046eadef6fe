"""Whether the files of a packed model hold as much as its configuration says."""

from __future__ import annotations

from pathlib import Path

from bebert_ray.errors import UserError
from bebert_ray.nn.model_files import check_file, read_json
from bebert_ray.packed.config import BebertConfig
from bebert_ray.packed.quantizer import stored_tensors


def check_extent(files: dict[str, Path]) -> BebertConfig:
    """Refuse more members and layers than there are tensors, before a model of them is built.

    Args:
        files: of a packed model, by name.

    Returns:
        The configuration.

    Raises:
        UserError: there are more, or a file is missing or damaged.
    """
    if "config.json" not in files:
        raise UserError("the packed model has no config.json")
    settings = read_json(files["config.json"], "the packed model: ")
    config: BebertConfig = BebertConfig.from_dict(settings)
    weights = [path for name, path in files.items() if name.endswith(".safetensors")]
    for path in weights:
        check_file(path, f"{path.parent}: ")
    layers, members = (config.member or {})["num_hidden_layers"], len(config.alphas or ())
    tensors = len(stored_tensors(map(str, weights))) + len(config.shared or {})
    if layers * members > tensors:
        raise UserError(
            f"config.json of the packed model: {members} alphas and {layers} layers "
            f"(member.num_hidden_layers) do not fit its {tensors} tensors; it lacks the tensor "
            f"members.{members - 1}.bert.encoder.layer.{layers - 1}"
        )
    return config
