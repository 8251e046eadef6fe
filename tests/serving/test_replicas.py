"""The service as people run it, on a Ray of its own; and rows that are sent again."""

import asyncio
import http.client
import json
import threading

import pytest
import ray

pytest.importorskip("uvicorn", reason="needs the extra serve")

import pyarrow as pa
from measure.serve import kill_replica, service
from ray.exceptions import ActorDiedError, RayTaskError

import bebert_ray as bb
from bebert_ray.errors import UserError
from bebert_ray.scoring.classifier import read_card
from bebert_ray.serving import replicas
from bebert_ray.serving.replicas import ATTEMPTS, Replica, Replicas
from bebert_ray.serving.rows import Refused
from bebert_ray.storage import Location

WORDS = ["film", "movie", "plot", "story"] * 3
TEXTS = [
    f"the {word} is {'very ' * (i % 3)}{('bad', 'good')[i % 2]}" for i, word in enumerate(WORDS)
]


class Handle:
    """Stands in for a deployment's handle: raises what it is given, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0
        self.score = self

    async def remote(self, row):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return [0.25, 0.75]


def test_a_row_is_sent_again_if_its_replica_dies(monkeypatch):
    monkeypatch.setattr(replicas, "PAUSE", 0)
    handle = Handle(ActorDiedError(), ActorDiedError())
    assert asyncio.run(Replicas("app", handle).score(("a",))) == [0.25, 0.75]
    assert handle.calls == 3


def test_a_row_that_kills_each_replica_is_given_up(monkeypatch):
    monkeypatch.setattr(replicas, "PAUSE", 0)
    handle = Handle(*[ActorDiedError() for _ in range(100)])
    with pytest.raises(Refused) as refused:
        asyncio.run(Replicas("app", handle).score(("a",)))
    assert refused.value.status == 503
    assert handle.calls == ATTEMPTS


def test_an_error_of_the_code_is_not_sent_again():
    handle = Handle(RayTaskError("score", "traceback", ValueError("no")))
    with pytest.raises(RayTaskError):
        asyncio.run(Replicas("app", handle).score(("a",)))
    assert handle.calls == 1


def test_a_replica_that_comes_later_is_of_the_same_model(model):
    digest = read_card(Location.parse(str(model))).digest
    Replica(str(model), digest, 8, False)
    with pytest.raises(UserError, match="has changed since the service started"):
        Replica(str(model), "0" * 64, 8, False)


def ask(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request(method, path, body if body is None else json.dumps(body))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def expected(model):
    table = bb.predict(model, pa.table({"text": TEXTS}), quiet=True, text_columns=["text"])
    return [
        {
            "label": row["label"],
            "probabilities": {
                name: pytest.approx(row[f"probability_{name}"], abs=2e-6)
                for name in ("negative", "positive")
            },
        }
        for row in table.to_pylist()
    ]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_answers_are_those_of_predict_also_when_a_replica_is_killed(model):
    wanted = expected(model)
    assert len({row["label"] for row in wanted}) == 2
    with service(str(model), 1) as (process, address):  # which checks that it ends with 0
        assert ask(address, "GET", "/health") == (200, {"status": "ok", "replicas": 1})
        assert [ask(address, "POST", "/", {"text": text})[1] for text in TEXTS] == wanted
        assert ask(address, "POST", "/predict", [{"text": text} for text in TEXTS])[1] == wanted
        status, answer = ask(address, "POST", "/", {"text": 1})
        assert (status, list(answer)) == (422, ["error"])

        answers, begun = {}, threading.Semaphore(0)

        def client(first):
            for place in range(first, 120, 4):
                answers[place] = ask(address, "POST", "/", {"text": TEXTS[place % len(TEXTS)]})
                begun.release()

        threads = [threading.Thread(target=client, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            begun.acquire()
        kill_replica(process.pid)
        for thread in threads:
            thread.join()
        assert {status for status, _ in answers.values()} == {200}
        assert [answers[i][1] for i in range(120)] == wanted * 10


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_ray_that_was_there_is_joined_and_stays(model, monkeypatch):
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        address = ray.get_runtime_context().gcs_address
        monkeypatch.setenv("RAY_ADDRESS", address)
        with service(str(model), 1) as (_, served):
            names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
            assert "SERVE_CONTROLLER_ACTOR" in names
            assert ask(served, "POST", "/", {"text": "good"})[0] == 200
        monkeypatch.delenv("RAY_ADDRESS")
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        assert not ray.util.list_named_actors(all_namespaces=True)
    finally:
        ray.shutdown()
