"""The encoder that a run starts from, as an artifact of the run: workers read it there.

A worker on another machine has neither the directory nor the hub's cache that the driver has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bebert_ray.config.recipes import ENCODER
from bebert_ray.nn.checkpoint import Checkpoint
from bebert_ray.nn.model_files import TOKENIZER_FILES, weight_files
from bebert_ray.storage import Artifact, Location, Miss, commit, fetch, find, link_or_copy

# What `from_pretrained` may read of a BERT beside its weights; a directory may hold more.
FILES = ("config.json", *TOKENIZER_FILES)


def leave_encoder(checkpoint: Checkpoint, directory: Location) -> Artifact:
    """Leave the weights and the tokenizer of a checkpoint in a run directory, unless they are.

    Hard links are made where the disk allows it, else copies.

    Args:
        checkpoint: where they are on this machine.
        directory: the run directory.

    Returns:
        The artifact `encoder`; its facts hold `source`, the path of the checkpoint.

    Raises:
        UserError: the run directory cannot be written.
    """
    place, inputs = directory / ENCODER, {"model": checkpoint.digest}
    known = find(place, inputs)
    if not isinstance(known, Miss):
        return known

    def write(draft: Path) -> Mapping[str, Any]:
        for path in _files(checkpoint.path):
            # In the hub's cache the names are symbolic links.
            link_or_copy(path.resolve(), draft / path.name)
        return {"source": str(checkpoint.path)}

    return commit(place, ENCODER, inputs, write)


def fetch_encoder(directory: Location) -> tuple[Checkpoint, str]:
    """The encoder in a run directory, as a checkpoint on this machine, and the path it came from.

    Raises:
        RunError: it is absent or damaged.
    """
    encoder = fetch(directory / ENCODER)
    return Checkpoint(encoder.path, encoder.inputs["model"]), encoder.facts["source"]


def _files(directory: Path) -> list[Path]:
    found = [path for pattern in FILES for path in directory.glob(pattern)]
    found += weight_files(directory, f"model: the weights in {directory} cannot be read: ")
    return sorted({path for path in found if path.is_file()})
