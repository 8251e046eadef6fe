"""What a request holds, and what is answered: JSON to rows of texts, and scores to JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bebert_ray.data.formats import shown
from bebert_ray.errors import UserError
from bebert_ray.paths import is_utf8
from bebert_ray.scoring.classifier import Card, Classifier

MAX_BODY = 1 << 20
"""Bytes of a request."""
MAX_ROWS = 256
"""Rows of a request; files of more are what `bebert predict` is for."""

NOT_FINITE = "the model gives NaN or infinity"

Row = tuple[str, ...]
"""A text, or the two of a pair."""


class Refused(Exception):
    """A request that is not answered with scores: an HTTP status, and one message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def parse_request(body: bytes, pairs: bool | None) -> tuple[list[Row], bool]:
    """The rows of a request.

    Args:
        body: JSON, `{"text": …}`, `{"text": …, "text_pair": …}` or a list of such rows.
        pairs: whether the model takes pairs; None: it takes both.

    Returns:
        The rows, and whether they came as a list.

    Raises:
        Refused: 400 for what is not JSON, 413 for too many rows, 422 for a row that is wrong.

    Examples:
        >>> parse_request(b'{"text": "It rains."}', pairs=False)
        ([('It rains.',)], False)
        >>> parse_request(b'[{"text": "Rain.", "text_pair": "Sun."}]', pairs=True)
        ([('Rain.', 'Sun.')], True)
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {_first_line(error)}") from error
    if not isinstance(given, list):
        return [_row(given, pairs, "the body")], False
    if not given:
        raise Refused(422, "the list has no rows")
    if len(given) > MAX_ROWS:
        raise Refused(
            413,
            f"{len(given):,} rows are more than a request takes: {MAX_ROWS}; send several "
            "requests, or score files with bebert predict",
        )
    return [_row(each, pairs, f"row {number}") for number, each in enumerate(given)], True


def _row(given: Any, pairs: bool | None, where: str) -> Row:
    if not isinstance(given, dict):
        raise Refused(422, f'{where} is {shown(given)}; give an object, {{"text": "…"}}')
    unknown = sorted(set(given) - {"text", "text_pair"})
    if unknown:
        raise Refused(422, f"{where}: unknown key {shown(unknown[0])}; keys: text, text_pair")
    if "text" not in given:
        raise Refused(422, f"{where} has no text")
    if pairs is False and "text_pair" in given:
        raise Refused(422, f"{where} has a text_pair, and the model takes one text")
    if pairs and "text_pair" not in given:
        raise Refused(422, f"{where} has no text_pair, and the model takes pairs of texts")
    for key in ("text", "text_pair"):
        if key in given and not isinstance(given[key], str):
            raise Refused(422, f"{where}: {key} is {shown(given[key])}, which is not text")
        if key in given and not is_utf8(given[key]):
            raise Refused(422, f"{where}: {key} holds half of a surrogate pair, which is not text")
    return tuple(given[key] for key in ("text", "text_pair") if key in given)


def score_rows(classifier: Classifier, rows: Sequence[Row]) -> list[list[float] | str]:
    """Score rows; one that cannot be scored leaves the others as they are.

    Args:
        classifier: the model.
        rows: texts and pairs, mixed.

    Returns:
        Of each row its scores, [K] as of `Classifier.score`, or why there are none.
    """
    found: list[list[float] | str] = [""] * len(rows)
    for width in sorted({len(row) for row in rows}):
        places = [place for place, row in enumerate(rows) if len(row) == width]
        columns = [[rows[place][i] for place in places] for i in range(width)]
        try:
            scores = classifier.score(columns)
        except UserError as error:
            if len(places) == 1:
                found[places[0]] = str(error)
            else:
                for place in places:
                    found[place] = score_rows(classifier, [rows[place]])[0]
            continue
        finite: Any = np.isfinite(scores).all(axis=1)
        for place, values, is_finite in zip(places, scores.tolist(), finite, strict=True):
            found[place] = values if is_finite else NOT_FINITE
    return found


def answers(card: Card, scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """What is answered for rows, with the labels and the rounding of `bebert predict`.

    Args:
        card: of the model.
        scores: [n, K], as of `Classifier.score`.

    Examples:
        >>> answers(Card(("bad", "good"), (), ""), [[0.25, 0.75]])
        [{'label': 'good', 'probabilities': {'bad': 0.25, 'good': 0.75}}]
        >>> answers(Card(None, (), ""), [[3.5]])
        [{'score': 3.5}]
    """
    columns = {name: values.to_pylist() for name, values in card.columns(np.array(scores)).items()}
    if card.labels is None:
        return [{"score": score} for score in columns["score"]]
    each = zip(*(columns[f"probability_{name}"] for name in card.labels), strict=True)
    return [
        {"label": label, "probabilities": dict(zip(card.labels, row, strict=True))}
        for label, row in zip(columns["label"], each, strict=True)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:150]
