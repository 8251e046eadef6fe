"""`bebert serve` under load: many clients, and a replica killed in mid-run."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bebert_ray import predict
from bebert_ray.data.demo import demo_corpus
from bebert_ray.errors import RunError
from bebert_ray.scoring.classifier import Card, read_card
from bebert_ray.serving.rows import answers
from bebert_ray.storage import Location
from measure.processes import descendants

START_SECONDS = 300.0
REQUEST_SECONDS = 150.0
KILL_AFTER = 1 / 3  # of the requests
DISTINCT = 1000  # texts, which are asked again and again
TOLERANCE = 1e-4
"""Most that a probability may differ from that of `bebert predict`: floats are rounded otherwise in
other batches, and an activation on the border of two levels can so get the other."""

_REPLICA = "ray::ServeReplica"


@dataclass
class Tally:
    """What became of requests; threads add to it."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    told_to_wait: int = 0
    largest: float = 0.0
    lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def ended(self) -> int:
        """How many requests were answered, or are lost."""
        return len(self.seconds) + len(self.lost)


def serve(
    model: str, requests: int, clients: int, rate: float | None, replicas: int, kill: bool
) -> dict[str, Any]:
    """Send requests of one row to a service of its own, and compare answers with `predict`'s.

    A request is sent again only if it was answered with 503, which says that it was not processed.

    Args:
        model: path or URI of a classifier.
        requests: how many.
        clients: how many send at once, each one request at a time.
        rate: requests a second; None: as fast as they are answered. A request's seconds count from
            when it was due, so that waiting for a free client is part of them.
        replicas: processes with the model.
        kill: whether one of them is killed (SIGKILL) after a third of the requests.

    Returns:
        The figures.

    Raises:
        RunError: the service does not start, or ends otherwise than with 0.
    """
    card = read_card(Location.parse(model))
    bodies, expected = _questions(model, card)
    tally, dues = Tally(), _dues(requests, rate)
    with service(model, replicas) as (process, address):
        threads = [
            threading.Thread(target=_client, args=(address, bodies, expected, dues, tally))
            for _ in range(clients)
        ]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        killed, recovered = None, None
        if kill:
            while tally.ended < requests * KILL_AFTER:
                time.sleep(0.01)
            killed = kill_replica(process.pid)
            at = time.monotonic()
            _wait(lambda: _alive(address) < replicas, 60.0)  # until the service knows
            _wait(lambda: _alive(address) >= replicas, START_SECONDS)
            recovered = round(time.monotonic() - at, 1)
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begin
    milliseconds = 1000 * np.array(tally.seconds or [np.nan])
    return {
        "benchmark": "serve",
        "model": model,
        "requests": requests,
        "clients": clients,
        "replicas": replicas,
        "rate": rate,
        "killed": int(killed is not None),
        "seconds_until_replaced": recovered,
        "answered": len(tally.seconds),
        "lost": len(tally.lost),
        "wrong": len(tally.wrong),
        "sent_again_after_503": tally.told_to_wait,
        "largest_difference": float(f"{tally.largest:.1e}"),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 1),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 1),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 1),
        "slowest_ms": round(float(milliseconds.max()), 1),
        "requests_per_second": round(len(tally.seconds) / seconds, 1),
        "seconds": round(seconds, 1),
        "examples_of_lost_and_wrong": (tally.lost + tally.wrong)[:3],
    }


def print_figures(figures: dict[str, Any], console: Console) -> None:
    """A line for each figure."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        if name not in ("benchmark", "model", "examples_of_lost_and_wrong"):
            shown = f"{value:,}" if isinstance(value, int) else str("" if value is None else value)
            table.add_row(name.replace("_", " "), shown)
    console.print(table)


@contextmanager
def service(model: str, replicas: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`bebert serve` as a process of its own, with its host and port; ended by SIGTERM.

    Raises:
        RunError: it does not start, or its exit code is not 0.
    """
    command = [sys.executable, "-m", "bebert_ray", "serve", model, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--replicas", str(replicas)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("{")), None)
        if line is None:
            raise RunError(f"bebert serve ended with {process.wait()} before it was ready")
        yield process, urlsplit(json.loads(line)["url"]).netloc
        process.send_signal(signal.SIGTERM)
        if code := process.wait(60):
            raise RunError(f"bebert serve ended with {code}, and not with 0")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def kill_replica(server: int) -> int:
    """Kill a replica of a service, as kill -9 does; returns its process id.

    Args:
        server: process id of the service, which started the Ray that the replica belongs to.

    Raises:
        RunError: it has none.
    """
    replicas = descendants(server, _REPLICA)
    if not replicas:
        raise RunError("the service has no replica to kill")
    os.kill(replicas[0], signal.SIGKILL)
    return replicas[0]


def _questions(model: str, card: Card) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Bodies of requests, and what `bebert predict` gives for each."""
    [texts] = demo_corpus(train=0, dev=DISTINCT).dev["dev"].texts
    columns = {"text": list(texts)}
    if len(card.text_columns) == 2:
        columns["text_pair"] = [*texts[1:], texts[0]]
    scored = predict(model, pa.table(columns), quiet=True, text_columns=list(columns))
    assert isinstance(scored, pa.Table)
    names = card.names("")[1:] if card.labels else ["score"]
    scores = [list(row) for row in zip(*(scored[n].to_pylist() for n in names), strict=True)]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [json.dumps(row).encode() for row in rows], answers(card, scores)


def _dues(requests: int, rate: float | None) -> queue.SimpleQueue[tuple[int, float]]:
    """The requests: number, and seconds after the start."""
    dues: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
    for number in range(requests):
        dues.put((number, number / rate if rate else 0.0))
    return dues


def _client(
    address: str,
    bodies: list[bytes],
    expected: list[dict[str, Any]],
    dues: queue.SimpleQueue[tuple[int, float]],
    tally: Tally,
) -> None:
    start = time.monotonic()
    while True:
        try:
            number, due = dues.get_nowait()
        except queue.Empty:
            return
        time.sleep(max(0.0, start + due - time.monotonic()))
        begin = start + due if due else time.monotonic()
        place = number % len(bodies)
        status, answer = _ask(address, bodies[place], tally)
        seconds = time.monotonic() - begin
        with tally.lock:
            if status != 200:
                tally.lost.append(f"{status}: {answer[:200]}")
                continue
            tally.seconds.append(seconds)
            difference = _difference(json.loads(answer), expected[place])
            tally.largest = max(tally.largest, difference)
            if difference > TOLERANCE:
                tally.wrong.append(f"{answer[:200]} and not {expected[place]}")


def _ask(address: str, body: bytes, tally: Tally) -> tuple[int, str]:
    """The status and the answer; 0 and the error if there is none."""
    until = time.monotonic() + REQUEST_SECONDS
    while True:
        connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS)
        try:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()
        if answer.status != 503 or time.monotonic() > until:
            return answer.status, text
        with tally.lock:
            tally.told_to_wait += 1
        time.sleep(float(answer.headers.get("Retry-After", "1")))


def _difference(answer: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference of a number; infinite for another label or other keys."""
    if answer.keys() != expected.keys() or answer.get("label") != expected.get("label"):
        return float("inf")
    if "score" in expected:
        return abs(float(answer["score"]) - float(expected["score"]))
    found, wanted = answer["probabilities"], expected["probabilities"]
    if found.keys() != wanted.keys():
        return float("inf")
    return max(abs(float(found[name]) - float(wanted[name])) for name in wanted)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)


def _alive(address: str) -> int:
    """How many replicas the service has; 0 if it does not tell."""
    connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS)
    try:
        connection.request("GET", "/health")
        return int(json.loads(connection.getresponse().read())["replicas"])
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
