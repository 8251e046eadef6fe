"""Ray breaks down, and people are told what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bebert_ray.cluster import watch
from bebert_ray.cluster.watch import Lifeline, watched
from bebert_ray.errors import RunError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A process of Ray, as far as the watch can tell."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(watch, "LAST_WORDS", 0.3)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server
    signal.signal(signal.SIGINT, before)


def head(server: socket.socket) -> Lifeline:
    return Lifeline("the head", f"127.0.0.1:{server.getsockname()[1]}", patience=0.3)


def work(server: socket.socket) -> None:
    """What the server does not survive."""
    with watched([head(server)]):
        time.sleep(0.5)  # it is there
        server.close()
        for _ in range(100):
            time.sleep(0.1)
        pytest.fail("was not told")


GONE = r"the head at 127\.0\.0\.1:\d+ is gone; what was finished is kept, give the same command"


def test_one_that_is_gone_ends_the_work(server: socket.socket) -> None:
    with pytest.raises(RunError, match=GONE):
        work(server)


def test_it_ends_the_work_of_another_thread(server: socket.socket) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work(server)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    [error] = raised
    assert isinstance(error, RunError)
    assert "give the same command again" in str(error)


def test_work_that_hears_nothing_is_told_on_stderr(
    server: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGINT, lambda *_: None)
    line = head(server)
    server.close()
    with pytest.raises(RunError, match=GONE), watched([line]):
        time.sleep(1.5)
    assert capsys.readouterr().err == f"error: {line}\n"


def test_work_that_ends_politely_has_failed_too(server: socket.socket) -> None:
    told = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: told.set())
    line = head(server)
    server.close()
    with pytest.raises(RunError, match=GONE), watched([line]):
        assert told.wait(10)


def test_one_that_is_there_disturbs_nothing(server: socket.socket) -> None:
    with watched([head(server)]):
        time.sleep(0.6)
    with pytest.raises(ValueError, match="mine"), watched([head(server)]):
        raise ValueError("mine")
    server.close()
    time.sleep(0.6)  # it is over


COMMAND = """
import sys, time, psutil, ray
from bebert_ray.cli.common import run_job
from bebert_ray.cluster.resources import connected
from bebert_ray.config import ResourcesConfig

def job():
    with connected(ResourcesConfig(num_cpus=1)):
        call = ray.remote(lambda: time.sleep(1000)).remote()
        time.sleep(1)
        for process in psutil.Process().children(recursive=True):
            if process.name() == sys.argv[1]:
                process.kill()
        ray.get(call)

sys.exit(run_job(job))
"""


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_a_command_whose_ray_is_killed_says_what_to_do(victim: str) -> None:
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    began = time.monotonic()
    command = subprocess.run(
        [sys.executable, "-c", COMMAND, victim],
        env=known,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert command.returncode == RunError.exit_code, command.stderr
    assert "give the same command again to go on" in command.stderr
    assert "Traceback" not in command.stderr
    assert time.monotonic() - began < 120
