"""Where packed models are: named by their directory, or by that of the run that made them."""

from __future__ import annotations

from pathlib import Path

from bebert_ray.config.recipes import MODEL
from bebert_ray.errors import RunError, UserError
from bebert_ray.packed.manifest import MANIFEST, check
from bebert_ray.storage import Location, exists, fetch


def find_model(text: str) -> Path:
    """A packed model that is whole, on this machine.

    Args:
        text: its directory, or a run directory, whose `model` it is; either may be a URI such as
            s3://bucket/runs/mrpc.

    Raises:
        UserError: there is none, or it is damaged.
    """
    given = Location.parse(text)
    for place in (given, given / MODEL):
        if exists(place / MANIFEST):
            break
    else:
        raise UserError(f"{text} is neither a packed model nor a run that has made one")
    try:
        directory = place.local if place.is_local else fetch(place).path
    except RunError as error:
        raise UserError(str(error)) from error
    check(directory)
    return directory
