"""Runs as `bebert train` makes them, many in a process, which may have stages in common."""

from __future__ import annotations

from rich.console import Console

from bebert_ray.cluster.resources import allot, connected
from bebert_ray.config import Config
from bebert_ray.pipeline.driver import results
from bebert_ray.pipeline.prepare import prepare
from bebert_ray.pipeline.results import Results
from bebert_ray.run import execute
from bebert_ray.storage import lock

NOT_PACKED = "export.remainder=none"  # only the trained models are of interest


def train_run(config: Config, stages_only: bool = False) -> Results | None:
    """A run as `bebert train` makes it; what it prints goes to a file beside the run."""
    prepared = prepare(config)
    directory = prepared.directory
    directory.local.parent.mkdir(parents=True, exist_ok=True)
    with (
        directory.local.with_suffix(".log").open("a") as log,
        connected(config.resources) as nodes,
        lock(directory),
    ):
        console = Console(file=log, width=120)
        run = execute(
            prepared,
            allot(prepared.config, nodes, shape=prepared.shape),
            console,
            stages_only=stages_only,
        )
        return None if stages_only else results(run)
