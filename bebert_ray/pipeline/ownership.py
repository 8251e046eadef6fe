"""Whose a directory is: what a run has made there, and how it is deleted; nothing else is.

Proof are marks that bebert_ray alone writes: the first line of `config.yaml`, and the record of
each artifact with its checksum. A file that no record lists, and that has no name of its own in
`pipeline.layout`, is someone's, wherever it lies.
"""

from __future__ import annotations

import re

from bebert_ray.config.recipes import ENCODER
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import is_kept
from bebert_ray.pipeline.layout import (
    ARTIFACTS,
    AUGMENTED,
    CHECKPOINTS,
    CONFIG,
    DATA,
    FILES,
    LEFT,
    LOGS,
    MEMBERS,
    TENSORBOARD,
    WEIGHTS,
    parse_directory,
)
from bebert_ray.storage import Location, Miss, discard, discard_below, exists, names, remove
from bebert_ray.storage.artifacts import RECORD, find

_PART = re.compile(r"part-\d{5,}\.(parquet|safetensors)")
_CURVES = re.compile(r"events\.out\.tfevents\..+")


def check_owned(directory: Location, without_config: bool = False) -> None:
    """Refuse a directory that bebert_ray did not write, though it has a `config.yaml`.

    Args:
        directory: with or without a `config.yaml`.
        without_config: whether a run is meant whose `config.yaml` was deleted.

    Raises:
        UserError: it is someone else's; nothing was changed.
    """
    there = names(directory)
    ours = _begun(directory)
    if not (ours or (is_kept(directory) and not without_config)):
        raise UserError(
            f"output: {directory} holds no run: its {CONFIG} was not written by bebert_ray; "
            "choose another directory"
        )
    if not ours and (others := sorted(there & LEFT)):
        raise UserError(
            f"output: {directory} holds {others[0]}, and nothing proves that bebert_ray wrote it; "
            "choose another directory"
        )
    for name in ARTIFACTS:
        if name in there and RECORD not in (inside := names(directory / name)) and inside:
            raise UserError(
                f"output: {directory / name} was not written by bebert_ray (it holds "
                f"{min(inside)[:60]}); move it elsewhere, or choose another directory"
            )


def _begun(directory: Location) -> bool:
    """Whether a run has left its first artifacts there, whole or damaged."""
    return any(
        exists(directory / name / RECORD) and _is_ours(directory / name) for name in (DATA, ENCODER)
    )


def _is_ours(place: Location) -> bool:
    known = find(place, {})
    return not (isinstance(known, Miss) and known.reason.startswith("damaged: artifact.json"))


def clear_run(directory: Location) -> None:
    """Delete what a run has made in its directory, but for its configuration and its lock.

    Artifacts go file by file, as their records list them. Others' files stay, and so do the
    directories that they are in.

    Raises:
        UserError: something cannot be deleted.
    """
    for name in ARTIFACTS:
        discard(directory / name)
    for name in names(directory / CHECKPOINTS):
        if name.startswith(f"{AUGMENTED}-"):
            clear_parts(directory / CHECKPOINTS / name)
    for name in (MEMBERS, CHECKPOINTS):
        discard_below(directory / name)
    there = names(directory)
    for name in names(directory / WEIGHTS):
        if name.endswith(".npy") and parse_directory(name) is not None:
            remove(directory / WEIGHTS / name)
    for name in FILES:
        if name in there:
            remove(directory / name)
    curves = directory / TENSORBOARD
    for stage in names(curves):
        for name in filter(_CURVES.fullmatch, names(curves / stage)):
            remove(curves / stage / name)
        remove_empty(curves / stage)
    for name in (WEIGHTS, TENSORBOARD, LOGS):
        remove_empty(directory / name)


def clear_parts(place: Location) -> None:
    """Delete the parts of augmented copies in a directory, and it, if nothing else is there.

    Raises:
        UserError: something cannot be deleted.
    """
    for name in filter(_PART.fullmatch, names(place)):
        remove(place / name)
    remove_empty(place)


def remove_empty(directory: Location) -> None:
    """Delete a local directory if nothing is in it."""
    if directory.is_local:
        try:
            directory.local.rmdir()
        except OSError:
            return
