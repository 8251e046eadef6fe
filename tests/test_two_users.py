"""Two users of one machine: root makes a run, and another one looks at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

OTHER = 65534

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can work as another user"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that all users can look into; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="bebert-users-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def as_other(home: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Run a command of bebert as the other user: its exit code, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "bebert_ray", *map(str, arguments)],
        env=os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=home,
        user=OTHER,
        group=OTHER,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("mask", [0o022, 0o077], ids=oct)
def test_the_umask_decides_what_another_user_can_do_with_a_run(
    finish_run: Callable[..., Path], place: Path, mask: int
) -> None:
    home = place / "home"
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    try:
        readable = as_other(home, "--version")[0] == 0
    except PermissionError:
        readable = False
    if not readable:
        pytest.skip("another user cannot read this Python or this package")
    before = os.umask(mask)
    try:
        run = finish_run(place / "run", "export.remainder=fp16")
        texts = place / "texts.csv"
        texts.write_text("text\nthe film is good\nthe plot is bad\n")
    finally:
        os.umask(before)
    commands: list[list[str | Path]] = [["inspect", run], ["report", run]]
    scoring = ["predict", "--model", run / "model", "--input", texts, "--output", home / "scored"]
    commands.append([*scoring, "--workers", "1"])
    if find_spec("onnx"):
        commands.append(["export", run, home / "model.onnx"])
    for command in commands:
        code, out, err = as_other(home, *command)
        assert "Traceback" not in err
        if mask == 0o022:
            assert code == 0, err
            assert out
        else:
            assert code == 2, err
            assert "Permission denied" in err
            assert str(run) in err
