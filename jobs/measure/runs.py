"""Runs as `jobs/ensemble.py` does them, many in a process, which may have stages in common."""

from __future__ import annotations

from rich.console import Console

from bebert_ray.cluster.pool import Crew
from bebert_ray.cluster.resources import allot, connected
from bebert_ray.config import Config
from bebert_ray.pipeline.driver import Run, results
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.pipeline.results import Results
from bebert_ray.pipeline.shared import StagesOnly
from bebert_ray.reporting.progress import Board
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
            crew.do(StagesOnly(run) if stages_only else run)
        return None if stages_only else results(run)
