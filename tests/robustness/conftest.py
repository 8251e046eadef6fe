"""A finished tiny run, made in this process once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _run_once(finish_run: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish_run(tmp_path_factory.mktemp("robust") / "run")


@pytest.fixture
def run(_run_once: Path, tmp_path: Path) -> Path:
    """The directory of a finished run."""
    return Path(shutil.copytree(_run_once, tmp_path / "run"))
