"""The head of a cluster goes, and people are told."""

from __future__ import annotations

import signal
import socket
import time

import pytest

from bebert_ray.cluster import watch
from bebert_ray.errors import RunError


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(watch, "PATIENCE", 0.3)
    server = socket.create_server(("127.0.0.1", 0))
    return server


def address(head: socket.socket) -> str:
    return f"127.0.0.1:{head.getsockname()[1]}"


def test_a_head_that_is_gone_ends_the_work_and_the_same_command_goes_on(
    head: socket.socket,
) -> None:
    place = address(head)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (
        pytest.raises(RunError, match=rf"head .* {place} is gone.*same command again to go on"),
        watch.head_watched(place),
    ):
        time.sleep(0.5)  # it is there
        head.close()
        time.sleep(20)


def test_a_head_that_is_there_disturbs_nothing(head: socket.socket) -> None:
    with watch.head_watched(address(head)):
        time.sleep(0.6)
    with pytest.raises(ValueError, match="mine"), watch.head_watched(address(head)):
        raise ValueError("mine")
    head.close()
