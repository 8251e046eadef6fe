"""Places of every kind: on the disk, in an S3 server, in another file system with directories."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bebert_ray.storage import Location


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies of remote artifacts are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bebert_ray"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Host and port of an S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch):
    """A client of the server, which has a bucket `runs`, empty."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}", region_name="us-east-1")
    client.create_bucket(Bucket="runs")
    yield client
    for entry in client.list_objects_v2(Bucket="runs").get("Contents", []):
        client.delete_object(Bucket="runs", Key=entry["Key"])


@pytest.fixture
def bucket(s3, s3_server: str) -> Location:
    """A directory in the bucket, not there yet."""
    options = f"endpoint_override={s3_server}&scheme=http&region=us-east-1"
    return Location.parse(f"s3://runs/mrpc?{options}")


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
