"""A finished tiny run, made in this process once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bebert_ray.cluster.worker import Worker
from bebert_ray.config import load_config
from bebert_ray.pipeline.driver import Run, results
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.pipeline.results import to_json
from bebert_ray.storage import write_atomic


@pytest.fixture(scope="session")
def _run_once(tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("robust") / "run"
    prepared = prepare(load_config(None, [*tiny_run, f"output={output}"]))
    splits = open_run(prepared)
    run = Run(prepared, splits)
    worker = Worker(prepared.config, prepared.task, prepared.directory, 1, lambda _: None)
    arrays = {name: columns.to_arrays() for name, columns in splits.items()}
    steps = run.start()
    while steps:
        step = steps.pop(0)
        steps += run.advance(step, *worker.run(step, arrays))
    write_atomic(prepared.layout.results, to_json(results(run).everything()))
    return output


@pytest.fixture
def run(_run_once: Path, tmp_path: Path) -> Path:
    """The directory of a finished run."""
    return Path(shutil.copytree(_run_once, tmp_path / "run"))
