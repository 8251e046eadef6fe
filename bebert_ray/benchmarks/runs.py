"""Runs as `jobs/ensemble.py` does them, many in a process, with stages in common."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from bebert_ray.config import Config
from bebert_ray.ensemble.cluster import allot, connected
from bebert_ray.ensemble.crew import Crew
from bebert_ray.ensemble.driver import Run, results
from bebert_ray.ensemble.prepare import open_run, prepare
from bebert_ray.ensemble.steps import Step
from bebert_ray.kinds import STAGE_NAMES
from bebert_ray.progress import Board
from bebert_ray.report import Results
from bebert_ray.storage import lock

NOT_PACKED = "export.remainder=none"  # only the trained models are of interest


def train_run(config: Config, stages_only: bool = False) -> Results | None:
    """A run as `jobs/ensemble.py` does it; what it has to say goes to a file beside the run."""
    prepared = prepare(config)
    directory = prepared.directory
    directory.local.parent.mkdir(parents=True, exist_ok=True)
    with (
        directory.local.with_suffix(".log").open("a") as log,
        connected(config.resources) as nodes,
        lock(directory),
    ):
        splits = open_run(prepared)
        with Board(directory, Console(file=log, width=120)) as board:
            crew = Crew(prepared, splits, allot(config, nodes), board)
            run = Run(prepared, splits, crew.report)
            to_do: Any = _Stages(run) if stages_only else run
            crew.do(to_do)
        return None if stages_only else results(run)


class _Stages:
    """A run that ends where the members begin."""

    def __init__(self, run: Run):
        self._run = run
        self.start = run.start

    def advance(self, *made: Any, **options: Any) -> list[Step]:
        return [step for step in self._run.advance(*made, **options) if step.member is None]


def copy_stages(source: Path, target: Path) -> None:
    """Give a run directory the data and the stages of another that it lacks.

    Those that it cannot use, as they were made with other settings, it makes anew.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in ("data", *STAGE_NAMES):
        if (source / name).exists() and not (target / name).exists():
            # Links will do: artifacts are never written to, only replaced.
            shutil.copytree(source / name, target / name, copy_function=os.link)
