"""Serve a model: check it, start its replicas, answer HTTP until a signal comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from bebert_ray.cluster.resources import connected, room
from bebert_ray.config import ResourcesConfig
from bebert_ray.errors import RunError, UserError
from bebert_ray.pipeline.resources import Allotment
from bebert_ray.scoring.classifier import Card, Classifier, check_tokens, read_card
from bebert_ray.serving.rows import NOT_FINITE, answers, score_rows
from bebert_ray.storage import Location

LAST_SECONDS = 20
"""How long requests that are there when a signal comes may take."""


@dataclass(frozen=True)
class Service:
    """What is served, and where.

    Attributes:
        model: Path or URI of the model's directory.
        host: Name or address to listen on.
        port: 0 for any that is free.
        min_replicas: The fewest processes with the model.
        max_replicas: The most; None for as many as the cluster has GPUs, or CPUs if it has none.
        batch_size: Rows in a forward pass.
        cascade: Whether to ask a member only where those before it are unsure.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    min_replicas: int = 1
    max_replicas: int | None = None
    batch_size: int = 32
    cascade: bool = False


def serve(service: Service, progress: Console) -> None:
    """Answer requests until SIGINT or SIGTERM.

    All is checked before Ray starts: the model, which is loaded once, the extra, and the port.

    Args:
        service: What is served, and where.
        progress: Where progress is printed. The URL is printed to stdout, as a line of JSON.

    Raises:
        UserError: Something in the input is wrong.
        RunError: The replicas do not start.
    """
    model = Location.parse(service.model)
    card, pairs = check_model(model, service.batch_size, service.cascade)
    check_extra()
    with listener(service.host, service.port) as listening:
        # Not above: they need the extra.
        import uvicorn

        from bebert_ray.serving.front import make_app
        from bebert_ray.serving.replicas import running

        with connected(ResourcesConfig()) as nodes:
            gpus = sum(int(node.gpu) for node in nodes)
            places = room(nodes, Allotment(1, 1.0 if gpus else 0.0))
            if places < service.min_replicas:
                raise UserError(
                    f"{service.min_replicas} replicas: the cluster has room for {places} (a "
                    f"{'GPU' if gpus else 'CPU'} each); ask for fewer"
                )
            fewest, most = service.min_replicas, service.max_replicas or places
            progress.print(f"{model}: starting {fewest} replicas (at most {most})")
            settings = (str(model), card.digest, service.batch_size, service.cascade)
            with running(settings, fewest, most, bool(gpus)) as replicas:
                app = make_app(replicas.score, partial(answers, card), replicas.health, pairs)
                config = uvicorn.Config(
                    app,
                    log_level="warning",
                    access_log=False,
                    lifespan="off",
                    timeout_graceful_shutdown=LAST_SECONDS,
                )
                listening.listen(1024)
                url = _url(service.host, listening)
                progress.print(f"serving at {url}: POST / or /predict, GET /health; Ctrl-C ends it")
                print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)
                _run(uvicorn.Server(config), listening)


def _run(server: Any, listening: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM, and then those that are there.

    Args:
        server: of uvicorn. It raises the signal again in the event loop when it is done, where a
            KeyboardInterrupt would cancel the connections that were accepted last.
        listening: listens.
    """

    def end(number: int, _: FrameType | None) -> None:
        server.should_exit = True

    async def run() -> None:
        await server.serve(sockets=[listening])
        until = time.monotonic() + LAST_SECONDS
        while server.server_state.tasks and time.monotonic() < until:
            await asyncio.sleep(0.05)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_extra() -> None:
    """Check that what the extra installs is there.

    Raises:
        UserError: It is not.
    """
    for name in ("fastapi", "starlette", "uvicorn"):
        if find_spec(name) is None:
            raise UserError(f"the package {name} is missing: pip install 'bebert_ray[serve]'")


def check_model(model: Location, batch_size: int, cascade: bool) -> tuple[Card, bool | None]:
    """Load a model, and score a text with it, on the CPU of this process.

    Returns:
        What its configuration tells, and whether it takes pairs; None if it takes both.

    Raises:
        UserError: There is no model, it is damaged or no classifier, or it has no cascade.
    """
    try:
        card = read_card(model)
        if cascade and not card.has_cascade:
            raise UserError(f"--cascade: {model} has none; it takes two members and classes")
        if len(card.text_columns) > 2:
            raise UserError(f"{model}: takes {len(card.text_columns)} texts, not one or two")
        pairs = _takes_pairs(model, card)
        classifier = Classifier(model, batch_size, cascade, torch.device("cpu"))
        [found] = score_rows(classifier, [("a",) * (1 + bool(pairs))])
        if isinstance(found, str):
            said = found if found != NOT_FINITE else f"{model}: {found}"
            raise UserError(f"{said}; give a model that was trained")
    except (UserError, RunError) as error:
        # Of `bebert predict`, which these messages are made for, the model is an option.
        raise UserError(str(error).removeprefix("--model ")) from error
    return card, pairs


def _takes_pairs(model: Location, card: Card) -> bool | None:
    if card.text_columns:
        pairs = len(card.text_columns) == 2
        check_tokens(model, pairs)
        return pairs
    check_tokens(model, pairs=False)
    try:
        check_tokens(model, pairs=True)
    except UserError:
        return False
    return None


def listener(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet.

    Raises:
        UserError: The address cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {host[:100]} --port {port}: {reason}; name another, or --port 0 for any that "
            "is free"
        ) from error
    return listening


def _url(host: str, listening: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"
