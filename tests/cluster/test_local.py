"""A Ray of this machine: nobody else gets in, and nothing of it stays behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from bebert_ray.cluster.local import environment_kept
from bebert_ray.cluster.resources import connected
from bebert_ray.config import ResourcesConfig
from bebert_ray.errors import UserError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

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
    """That of a Ray that this process has started as every command does, with a worker."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        before = environment()
        with connected(ResourcesConfig(num_cpus=1)):
            assert ray.get(ray.remote(lambda: 1).remote()) == 1
            files = Path(ray._private.worker._global_node.get_session_dir_path())
            yield ray.get_runtime_context().gcs_address
        assert environment() == before
        assert not list(home.iterdir())
        assert not files.parents[1].exists()


def environment() -> dict[str, str]:
    """That of this process, but for what pytest changes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def knock(address: str, **environment: str) -> str:
    """What a process of another user meets there."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    stranger = subprocess.run(
        [sys.executable, "-c", KNOCK, address],
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=100,
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


def test_a_stranger_is_refused(address: str) -> None:
    assert knock(address) == "AuthenticationError"
    assert knock(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64) == "AuthenticationError"
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    assert knock(address, **token) == "in"


def test_its_files_are_this_users(address: str) -> None:
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert stat.S_IMODE(session.parents[1].stat().st_mode) == 0o700


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


@pytest.mark.slow
def test_another_of_this_process_has_another_token(address: str) -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    code = (
        "import os, ray\n"
        "from bebert_ray.cluster.resources import connected\n"
        "from bebert_ray.config import ResourcesConfig\n"
        "before = dict(os.environ)\n"
        "for _ in range(2):\n"
        "    with connected(ResourcesConfig(num_cpus=1)):\n"
        "        f = ray.remote(lambda: os.environ['RAY_AUTH_TOKEN'])\n"
        "        print(ray.get(f.remote()))\n"
        "    assert dict(os.environ) == before\n"
    )
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shown = subprocess.check_output([sys.executable, "-c", code], env=known, text=True, timeout=200)
    tokens = {token, *shown.split()}
    assert len(tokens) == 3
    assert all(len(each) == 64 for each in tokens)


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ONE", "1")
    monkeypatch.setenv("RAY_TWO", "2")
    monkeypatch.delenv("RAY_THREE", raising=False)
    with environment_kept():
        os.environ["RAY_ONE"] = os.environ["RAY_THREE"] = "x"
        del os.environ["RAY_TWO"]
        os.environ["MINE"] = "kept"
    assert os.environ["RAY_ONE"] == "1"
    assert os.environ["RAY_TWO"] == "2"
    assert "RAY_THREE" not in os.environ
    assert os.environ.pop("MINE") == "kept"
