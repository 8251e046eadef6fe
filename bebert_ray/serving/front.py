"""The HTTP side: routes, limits, status codes. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bebert_ray.serving.rows import MAX_BODY, Refused, Row, parse_request

MAX_WAITING = 4096
"""Rows that may wait for scores at once; a request beyond is told to come back."""
BODY_SECONDS = 30.0
"""How long a client may take to send a request."""
SCORE_SECONDS = 120.0
"""How long a request may wait for its scores."""

_log = logging.getLogger(__name__)

Score = Callable[[Row], Awaitable[list[float] | str]]
"""Scores of a row, or why there are none."""


def make_app(
    score: Score,
    answers: Callable[[list[list[float]]], list[dict[str, Any]]],
    health: Callable[[], Awaitable[dict[str, Any]]],
    pairs: bool | None,
) -> Starlette:
    """The application that answers `POST /`, `POST /predict` and `GET /health`.

    Args:
        score: scores a row; rows of a request are scored at once.
        answers: makes what is answered of scores.
        health: what `/health` tells; the status is 200 if its `status` is `ok`, else 503.
        pairs: see `parse_request`.
    """
    waiting = 0

    async def predict(request: Request) -> Response:
        nonlocal waiting
        rows, is_list = parse_request(await _body(request), pairs)
        if waiting + len(rows) > MAX_WAITING:
            raise Refused(503, f"{waiting:,} rows are waiting for scores; try again later")
        waiting += len(rows)
        try:
            async with asyncio.timeout(SCORE_SECONDS), asyncio.TaskGroup() as group:
                tasks = [group.create_task(_told(score, row)) for row in rows]
        except TimeoutError as error:
            raise Refused(503, f"no scores in {SCORE_SECONDS:.0f} s; try again later") from error
        finally:
            waiting -= len(rows)
        found: list[list[float]] = []
        for number, result in enumerate(task.result() for task in tasks):
            if isinstance(result, Refused):
                raise result
            if isinstance(result, str):
                where = f"row {number}: " if is_list else ""
                raise Refused(422, where + result)
            found.append(result)
        told = answers(found)
        return JSONResponse(told if is_list else told[0])

    async def tell_health(_: Request) -> Response:
        found = await health()
        return JSONResponse(found, 200 if found.get("status") == "ok" else 503)

    return Starlette(
        routes=[
            Route("/", _guarded(predict), methods=["POST"]),
            Route("/predict", _guarded(predict), methods=["POST"]),
            Route("/health", _guarded(tell_health), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _no_such_route},
    )


async def _told(score: Score, row: Row) -> list[float] | str | Refused:
    """A row's scores; an error is a value, so that a group of tasks does not wrap it."""
    try:
        return await score(row)
    except Refused as error:
        return error
    except Exception:
        _log.exception("a row was not scored")
        return Refused(500, "the row was not scored: an error of the server, which is in its log")


async def _body(request: Request) -> bytes:
    """The body of a request, of which no more is read than is allowed."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise Refused(413, f"the body is larger than {MAX_BODY:,} bytes")
                parts.append(part)
    except TimeoutError as error:
        raise Refused(408, f"the body took longer than {BODY_SECONDS:.0f} s") from error
    return b"".join(parts)


def _guarded(
    route: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route whose every error is one message in JSON."""

    async def guarded(request: Request) -> Response:
        try:
            return await route(request)
        except Refused as error:
            return _error(error.status, str(error))
        except ClientDisconnect:
            return _error(400, "the client went away")  # who does not see it
        except Exception:
            _log.exception("a request was not answered")
            return _error(500, "an error of the server, which is in its log")

    return guarded


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return _error(status, "POST JSON to / or /predict; GET /health", getattr(error, "headers", {}))


def _error(status: int, message: str, headers: Any = None) -> Response:
    # A body that is left unread cannot be followed by another request.
    close = {"Connection": "close"} if status in (408, 413) else {}
    later = {"Retry-After": "1"} if status == 503 else {}
    return JSONResponse({"error": message}, status, {**close, **later, **(headers or {})})
