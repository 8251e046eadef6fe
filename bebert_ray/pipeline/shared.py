"""Stages that several runs have in common: made by one, linked to by the others."""

from __future__ import annotations

from pathlib import Path

from bebert_ray.config.recipes import ENCODER, STAGE_NAMES
from bebert_ray.pipeline.layout import AUGMENTED, DATA
from bebert_ray.storage import Location, discard, link


def link_stages(source: Path, target: Path | Location) -> None:
    """Give a run directory the data, its copies, the encoder and the stages of another.

    They replace those of the target, which may be damaged or older. The run makes stages anew whose
    settings differ from its own.
    """
    place = Location.of(target)
    for name in (DATA, AUGMENTED, ENCODER, *STAGE_NAMES):
        if (source / name).exists():
            discard(place / name)
            link(source / name, place / name)
