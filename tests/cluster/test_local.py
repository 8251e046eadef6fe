"""A Ray of this machine: nobody else gets in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from bebert_ray.cluster.local import closed_to_others
from bebert_ray.cluster.resources import connected
from bebert_ray.config import ResourcesConfig
from bebert_ray.errors import UserError

pytestmark = pytest.mark.cluster

# Without Ray's half a minute of trying.
KNOCK = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_get(b"x", None, timeout=5)
    print("in")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """That of a Ray that this process has started as every command does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("RAY_AUTH_MODE", raising=False)
        with connected(ResourcesConfig(num_cpus=1)):
            ray.get(ray.remote(lambda: 1).remote())  # a worker is there, too
            yield ray.get_runtime_context().gcs_address


def knock(address: str, home: Path, **environment: str) -> str:
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    stranger = subprocess.run(
        [sys.executable, "-c", KNOCK, address],
        env=known | {"HOME": str(home)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return stranger.stdout.strip()


def test_nothing_listens_beyond_loopback(address: str) -> None:
    me = psutil.Process()
    places = [
        (process.name(), connection.laddr.ip)
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(places) > 5
    assert {ip.removeprefix("::ffff:") for _, ip in places} <= {"127.0.0.1", "::1"}, places


def test_a_stranger_is_refused(address: str, tmp_path: Path) -> None:
    assert knock(address, tmp_path) == "AuthenticationError"
    assert knock(address, tmp_path, RAY_AUTH_MODE="disabled") == "AuthenticationError"
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    assert knock(address, tmp_path, **wrong) == "AuthenticationError"
    assert knock(address, Path.home(), RAY_AUTH_MODE="token") == "in"


def test_the_token_is_for_this_user_alone(address: str) -> None:
    assert (Path.home() / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


def test_a_command_without_the_token_is_told_so_at_once(address: str, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from bebert_ray.cluster.resources import connected\n"
        "from bebert_ray.config import ResourcesConfig\n"
        "start = time.monotonic()\n"
        "try:\n"
        "    with connected(ResourcesConfig()): pass\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(time.monotonic() - start < 5)\n"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = subprocess.run(
        [sys.executable, "-c", code],
        env=known | {"HOME": str(tmp_path), "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=100,
    )
    told, quick = command.stdout.strip().splitlines()[-2:]
    assert told.startswith(UserError.__name__), command.stdout + command.stderr
    assert "asks for a token" in told and "RAY_AUTH_MODE=token" in told
    assert quick == "True"


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before = dict(os.environ)
    with closed_to_others():
        assert os.environ["RAY_AUTH_MODE"] == "token"
    assert dict(os.environ) == before
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with closed_to_others():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
