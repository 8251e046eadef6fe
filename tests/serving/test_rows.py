"""Requests to rows, rows to scores, scores to answers."""

import json

import numpy as np
import pytest

from bebert_ray.errors import UserError
from bebert_ray.scoring.classifier import Classifier
from bebert_ray.serving.rows import MAX_ROWS, NOT_FINITE, Refused, parse_request, score_rows
from bebert_ray.storage import Location


@pytest.mark.parametrize(
    ("body", "pairs", "rows", "is_list"),
    [
        ({"text": "a"}, False, [("a",)], False),
        ({"text": "a"}, None, [("a",)], False),
        ({"text_pair": "b", "text": "a"}, True, [("a", "b")], False),
        ([{"text": ""}], False, [("",)], True),
        ([{"text": "a"}, {"text": "a", "text_pair": "b"}], None, [("a",), ("a", "b")], True),
        ([{"text": "a"}] * MAX_ROWS, False, [("a",)] * MAX_ROWS, True),
    ],
)
def test_rows_of_a_request(body, pairs, rows, is_list):
    assert parse_request(json.dumps(body).encode(), pairs) == (rows, is_list)


@pytest.mark.parametrize(
    ("body", "pairs", "status", "message"),
    [
        (b"", None, 400, "the body is not JSON"),
        (b'{"text": "a"', None, 400, "the body is not JSON"),
        (b"\xff\xfe\xfd", None, 400, "the body is not JSON"),
        (b"[" * 100_000, None, 400, "the body is not JSON"),
        (b"1" * 5000, None, 400, "the body is not JSON"),
        (b"null", None, 422, "the body is None; give an object"),
        (b'"a"', None, 422, "the body is 'a'; give an object"),
        (b"[]", None, 422, "the list has no rows"),
        (b'[{"text": "a"}, 3]', None, 422, "row 1 is 3; give an object"),
        (b'[{"text": "a"}, []]', None, 422, "row 1 is []; give an object"),
        (b"{}", None, 422, "the body has no text"),
        (b'{"text_pair": "b"}', None, 422, "the body has no text"),
        (b'{"text": null}', None, 422, "the body: text is None, which is not text"),
        (b'{"text": "a", "text_pair": 1}', None, 422, "text_pair is 1, which is not text"),
        (b'{"text": "\\ud800"}', None, 422, "half of a surrogate pair"),
        (b'{"text": "a", "id": 1}', None, 422, "unknown key 'id'; keys: text, text_pair"),
        (b'{"text": "a", "text_pair": "b"}', False, 422, "the model takes one text"),
        (b'{"text": "a"}', True, 422, "the body has no text_pair"),
        (b'[{"text": "a"}' + b',{"text": "a"}' * MAX_ROWS + b"]", None, 413, "257 rows are more"),
    ],
)
def test_a_request_that_is_wrong(body, pairs, status, message):
    with pytest.raises(Refused) as refused:
        parse_request(body, pairs)
    assert refused.value.status == status
    assert message in str(refused.value)
    assert len(str(refused.value)) < 300
    str(refused.value).encode()  # it can be sent


def test_a_message_does_not_repeat_a_long_request():
    with pytest.raises(Refused) as refused:
        parse_request(json.dumps({"t" * 10_000: "a" * 10_000}).encode(), None)
    assert len(str(refused.value)) < 300


def test_scores_of_texts_and_pairs_are_those_of_each_alone(model):
    classifier = Classifier(Location.parse(str(model)), 8)
    rows = [("good",), ("the film", "bad"), ("a very bad movie",), ("plot", "good")]
    found = score_rows(classifier, rows)
    for row, scores in zip(rows, found, strict=True):
        np.testing.assert_allclose(scores, classifier.score([[text] for text in row])[0], rtol=1e-5)
    assert len({tuple(scores) for scores in found}) == 4


class Picky:
    """Stands in for a classifier: it cannot score `bad`, and has no number for `nan`."""

    def score(self, texts):
        if "bad" in texts[0]:
            raise UserError("cannot score bad")
        return np.array([[np.nan if text == "nan" else float(text)] for text in texts[0]])


def test_a_row_that_cannot_be_scored_leaves_the_others():
    found = score_rows(Picky(), [("1",), ("bad",), ("nan",), ("2",)])
    assert found == [[1.0], "cannot score bad", NOT_FINITE, [2.0]]
