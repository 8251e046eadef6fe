"""Places of every kind: on the disk, in an S3 server, in another file system with directories."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bebert_ray.storage import Location


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies of remote artifacts are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bebert_ray"


@pytest.fixture
def mount(tmp_path: Path) -> Location:
    """A directory, not there yet, in a remote file system that has real directories, as HDFS."""
    (tmp_path / "mount").mkdir()
    filesystem = SubTreeFileSystem(str(tmp_path / "mount"), LocalFileSystem())
    return Location(filesystem, "runs/mrpc", "mount://host/runs/mrpc")


@pytest.fixture(params=["disk", "bucket", "mount"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A directory, not there yet, of each kind."""
    if request.param == "disk":
        return Location.of(tmp_path / "disk" / "mrpc")
    return request.getfixturevalue(request.param)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)
