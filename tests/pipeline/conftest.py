"""A run without Ray: steps are taken in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bebert_ray.cluster.worker import Worker
from bebert_ray.config import load_config
from bebert_ray.data.copies import COPIES
from bebert_ray.pipeline.augmentation import load_copies
from bebert_ray.pipeline.driver import Run, found, results
from bebert_ray.pipeline.members import keep_weights
from bebert_ray.pipeline.prepare import Prepared, open_run, prepare
from bebert_ray.pipeline.results import Results
from bebert_ray.storage import Miss


@dataclass
class Runner:
    """Runs with more overrides; `taken` names the steps of the last run that were not done yet."""

    overrides: list[str]
    output: Path
    taken: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def prepare(self, *overrides: str, output: Path | None = None) -> Prepared:
        place = f"output={output or self.output}"
        return prepare(load_config(None, [*self.overrides, place, *overrides]))

    def __call__(
        self,
        *overrides: str,
        output: Path | None = None,
        report: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Results:
        def tell(event: dict[str, Any]) -> None:
            self.events.append(event)
            report(event)

        prepared = self.prepare(*overrides, output=output)
        splits = open_run(prepared)
        arrays = {name: columns.to_arrays() for name, columns in splits.items()}
        if (copies := load_copies(prepared)) is not None:  # made by the test
            arrays[COPIES] = copies.to_arrays()
        self.taken.clear()
        self.events.clear()
        run = Run(prepared, splits, tell)
        worker = Worker(
            prepared.config,
            prepared.task,
            prepared.directory,
            1,
            tell,
        )
        steps = run.start()
        while steps:
            step = steps.pop(0)
            known = found(step)
            if step.member is not None:
                keep_weights(step, prepared.directory)
            if isinstance(known, Miss):
                self.taken.append(step.name)
                known = worker.run(step, arrays)
            steps += run.advance(step, *known)
        return results(run)


@pytest.fixture(scope="session")
def make_runner() -> Callable[[list[str], Path], Runner]:
    return Runner


@pytest.fixture
def runner(tiny_run: list[str], tmp_path: Path) -> Runner:
    return Runner(tiny_run, tmp_path / "run")


@pytest.fixture(scope="session")
def _run_once(
    tiny_run: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Results]:
    output = tmp_path_factory.mktemp("runs") / "run"
    return output, Runner(tiny_run, output)()


@pytest.fixture
def finished(runner: Runner, _run_once: tuple[Path, Results]) -> Results:
    """The results of a run that `runner` finds done already."""
    shutil.copytree(_run_once[0], runner.output)
    return replace(_run_once[1], run=str(runner.output))


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, int]]]:
    """All that lies below a directory, with the size and time of each file."""

    def take(directory: Path) -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in directory.rglob("*")
        }

    return take
