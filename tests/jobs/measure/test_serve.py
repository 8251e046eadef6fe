"""What the load test counts: answers that are wrong, and requests that are lost."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from measure.serve import Tally, _client, _difference, _dues, kill_replica

from bebert_ray.errors import RunError

GOOD = {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}}


@pytest.mark.parametrize(
    ("answer", "difference"),
    [
        (GOOD, 0.0),
        ({"label": "a", "probabilities": {"a": 0.7, "b": 0.3}}, 0.05),
        ({"label": "b", "probabilities": {"a": 0.75, "b": 0.25}}, float("inf")),
        ({"label": "a", "probabilities": {"a": 0.75, "c": 0.25}}, float("inf")),
        ({"error": "no"}, float("inf")),
    ],
)
def test_how_far_an_answer_is_from_what_predict_gives(answer, difference):
    assert _difference(answer, GOOD) == pytest.approx(difference)
    assert _difference({"score": 1.5}, {"score": 1.0}) == 0.5


class Server(BaseHTTPRequestHandler):
    """Answers each text as it asks for; `busy` is told to come back once."""

    told: ClassVar[list[str]] = []

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        self.told.append(text)
        if text == "drop":
            self.close_connection = True
            return
        is_busy = text == "busy" and self.told.count("busy") == 1
        status = 503 if is_busy else 422 if text == "refused" else 200
        wrong = {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}
        body = json.dumps(wrong if text == "wrong" else GOOD).encode()
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_only_what_was_not_processed_is_sent_again():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Server.told.clear()
    texts, tally = ["fine", "busy", "drop", "refused", "wrong"], Tally()
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    address = "{}:{}".format(*server.server_address)
    _client(address, bodies, [GOOD] * 5, _dues(5, rate=100.0), tally)
    server.shutdown()
    server.server_close()
    assert Server.told == ["fine", "busy", "busy", "drop", "refused", "wrong"]
    assert (len(tally.seconds), len(tally.lost), len(tally.wrong)) == (3, 2, 1)
    assert tally.told_to_wait == 1
    assert tally.lost[1].startswith("422")


def test_a_process_without_replicas_has_none_to_kill():
    with pytest.raises(RunError, match="no replica to kill"):
        kill_replica(2**22 + 1)
