"""Whether a hub answers: a slow one does."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from bebert_ray.hub import PROBE_SECONDS, is_reachable


@pytest.fixture
def hub():
    """Starts a hub that answers after some seconds: hub(seconds) is its address."""
    servers = []

    def start(seconds):
        class Slow(BaseHTTPRequestHandler):
            def do_HEAD(self):
                time.sleep(seconds)
                self.send_response(404)
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Slow))
        servers[-1].daemon_threads = True
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_it_may_take_longer_than_two_seconds(hub, caplog):
    assert PROBE_SECONDS == 10
    assert is_reachable(hub(2.5))
    assert not caplog.text


def test_one_that_does_not_answer_in_time_is_told(hub, monkeypatch, caplog):
    monkeypatch.setattr("bebert_ray.hub.PROBE_SECONDS", 1.0)
    address, begun = hub(30), time.monotonic()
    assert not is_reachable(address)
    assert time.monotonic() - begun < 5
    assert f"the hub {address} is taken for unreachable" in caplog.text
    assert "no answer in 1 s (HF_HUB_ETAG_TIMEOUT sets how long to wait)" in caplog.text


def test_one_that_is_not_there_is_told_at_once(caplog):
    begun = time.monotonic()
    assert not is_reachable("http://127.0.0.1:9")  # no server listens
    assert time.monotonic() - begun < 5
    assert "Connection refused" in caplog.text
