"""Stages that several runs have in common: made by one, linked to by the others."""

from __future__ import annotations

from pathlib import Path

from bebert_ray.config.recipes import STAGE_NAMES
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.layout import DATA
from bebert_ray.pipeline.steps import Step
from bebert_ray.storage import Artifact, link, remove
from bebert_ray.training.work import Logits


class StagesOnly:
    """A run that ends where the members begin."""

    def __init__(self, run: Run):
        self._run = run

    def start(self) -> list[Step]:
        """As `Run.start`."""
        return self._run.start()

    def advance(
        self, step: Step, artifact: Artifact, logits: Logits, new: bool = True
    ) -> list[Step]:
        """As `Run.advance`, without members."""
        due = self._run.advance(step, artifact, logits, new)
        return [step for step in due if step.member is None]


def link_stages(source: Path, target: Path) -> None:
    """Give a run directory the data and the stages of another, in place of what is there.

    That may be damaged, or come from what the other has made anew since. Those that the run cannot
    use, as they were made with other settings, it makes anew.
    """
    for name in (DATA, *STAGE_NAMES):
        if (source / name).exists():
            remove(target / name)
            link(source / name, target / name)
