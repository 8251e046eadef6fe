"""Routes, status codes and limits, without a server and without Ray."""

import asyncio
import json

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from bebert_ray.serving import front
from bebert_ray.serving.rows import Refused


async def score(row):
    match row[0]:
        case "crash":
            raise RuntimeError("a secret of the server")
        case "busy":
            raise Refused(503, "no replica")
        case "nan":
            return "the model gives NaN or infinity"
        case "slow":
            await asyncio.sleep(60)
    return [float(len(row[0]))]


async def healthy():
    return {"status": "ok", "replicas": 1}


def make(health=healthy):
    def answers(scores):
        return [{"score": values[0]} for values in scores]

    return front.make_app(score, answers, health, None)


async def ask(app, method, path, parts):
    """The status, the headers and the JSON that an application answers with."""
    sent = []
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0) if messages else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(m.get("body", b"") for m in sent[1:]))


def post(body, app=None, path="/"):
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(ask(app or make(), "POST", path, [given]))


@pytest.mark.parametrize("path", ["/", "/predict"])
def test_a_row_is_answered_with_an_object_and_a_list_with_a_list(path):
    assert post({"text": "four"}, path=path)[::2] == (200, {"score": 4.0})
    assert post([{"text": "four"}], path=path)[::2] == (200, [{"score": 4.0}])
    rows = [{"text": "a" * length} for length in (3, 1, 2)]
    assert post(rows, path=path)[2] == [{"score": 3.0}, {"score": 1.0}, {"score": 2.0}]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        ({"text": 1}, 422, "the body: text is 1"),
        ({"text": "nan"}, 422, "the model gives NaN"),
        ([{"text": "a"}, {"text": "nan"}], 422, "row 1: the model gives NaN"),
        ({"text": "busy"}, 503, "no replica"),
        ([{"text": "a"}, {"text": "busy"}], 503, "no replica"),
        ({"text": "crash"}, 500, "an error of the server"),
    ],
)
def test_an_error_is_one_message(body, status, message):
    found, headers, answer = post(body)
    assert found == status
    assert list(answer) == ["error"]
    assert message in answer["error"]
    assert "secret" not in answer["error"] and "Traceback" not in answer["error"]
    assert ("retry-after" in headers) == (status == 503)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 405), ("POST", "/health", 405), ("GET", "/x", 404)]
)
def test_other_routes_are_told_of(method, path, status):
    found, _, answer = asyncio.run(ask(make(), method, path, []))
    assert (found, answer) == (status, {"error": "POST JSON to / or /predict; GET /health"})


async def status_of(receive):
    """The status of the answer to a request whose body comes from `receive`."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    await make()(scope, receive, send)
    return sent[0]["status"]


def test_no_more_of_a_body_is_read_than_is_allowed(monkeypatch):
    monkeypatch.setattr(front, "MAX_BODY", 20)
    read = []

    def parts():
        for number in range(100):
            read.append(number)
            yield b"0123456789"

    made = parts()

    async def receive():
        return {"type": "http.request", "body": next(made), "more_body": True}

    assert asyncio.run(status_of(receive)) == 413
    assert len(read) == 3


def test_a_client_that_sends_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(front, "BODY_SECONDS", 0.05)

    async def receive():
        await asyncio.sleep(60)

    assert asyncio.run(status_of(receive)) == 408


def test_scores_that_do_not_come_are_503(monkeypatch):
    monkeypatch.setattr(front, "SCORE_SECONDS", 0.05)
    status, headers, answer = post({"text": "slow"})
    assert (status, headers["retry-after"]) == (503, "1")
    assert "no scores in" in answer["error"]


def test_rows_beyond_what_may_wait_are_refused_and_the_place_is_free_again(monkeypatch):
    monkeypatch.setattr(front, "MAX_WAITING", 2)
    monkeypatch.setattr(front, "SCORE_SECONDS", 0.2)

    async def run():
        app, slow = make(), [{"text": "slow"}] * 2
        first = asyncio.create_task(ask(app, "POST", "/", [json.dumps(slow).encode()]))
        await asyncio.sleep(0.05)
        refused = await ask(app, "POST", "/", [b'{"text": "a"}'])
        await first
        return refused, await ask(app, "POST", "/", [b'{"text": "a"}'])

    refused, after = asyncio.run(run())
    assert refused[0] == 503
    assert "2 rows are waiting" in refused[2]["error"]
    assert after[0] == 200


@pytest.mark.parametrize(("told", "status"), [("ok", 200), ("unavailable", 503)])
def test_health(told, status):
    async def health():
        return {"status": told, "replicas": 0}

    found, _, answer = asyncio.run(ask(make(health), "GET", "/health", []))
    assert (found, answer) == (status, {"status": told, "replicas": 0})
