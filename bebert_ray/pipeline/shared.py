"""Stages that several runs have in common: made by one, linked to by the others."""

from __future__ import annotations

from pathlib import Path

from bebert_ray.config.recipes import ENCODER, STAGE_NAMES
from bebert_ray.pipeline.layout import DATA
from bebert_ray.storage import Location, discard, link


def link_stages(source: Path, target: Path | Location) -> None:
    """Give a run directory the data, the encoder and the stages of another.

    They replace what is there, which may be damaged, or come from what the other has made anew
    since. Those that the run cannot use, as they were made with other settings, it makes anew.
    """
    place = Location.of(target)
    for name in (DATA, ENCODER, *STAGE_NAMES):
        if (source / name).exists():
            discard(place / name)
            link(source / name, place / name)
