"""Scoring one part: read, set bad rows aside, score the others, write both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bebert_ray.predict.classifier import Card, Classifier
from bebert_ray.predict.parts import Part, format_of
from bebert_ray.storage import Location, write_atomic

_SHOWN = 40  # characters of a value that is no text


@dataclass(frozen=True)
class Job:
    """What is done to all parts.

    Attributes:
        model: the directory of the model.
        card: what it says of itself.
        output: where output files go.
        text_columns: one column, or the two of a pair.
        prefix: of the names of the columns that are added.
        batch_size: texts in a forward pass.
    """

    model: Location
    card: Card
    output: Location
    text_columns: tuple[str, ...]
    prefix: str
    batch_size: int


def score_part(job: Job, classifier: Classifier, part: Part) -> int:
    """Score a part, and leave its output file.

    Bad rows are listed first, so that an output file that is there says that its part is done.

    Returns:
        How many rows are bad.

    Raises:
        UserError: the input cannot be read or the output not be written.
    """
    source, kind = Location.parse(part.source), format_of(part.name)
    rows = kind.read(source, part.span, job.text_columns, job.card.names(job.prefix))
    bad, kept = list(rows.bad), []
    for position, texts in enumerate(zip(*rows.texts, strict=True)):
        problem = _problem(job.text_columns, texts)
        if problem:
            bad.append((rows.numbers[position], problem))
        else:
            kept.append(position)
    scores = classifier.score([[column[i] for i in kept] for column in rows.texts])
    if bad:
        lines = [{"file": part.source, "row": row, "reason": reason} for row, reason in sorted(bad)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomic(job.output / part.bad_rows, text)
    columns = job.card.columns(scores, job.prefix)
    write_atomic(job.output / part.name, kind.write(rows.data, kept, columns))
    return len(bad)


def _problem(names: tuple[str, ...], texts: tuple[Any, ...]) -> str:
    for name, text in zip(names, texts, strict=True):
        if text is None:
            return f"no text in column {name!r}"
        if not isinstance(text, str):
            return f"column {name!r} holds {repr(text)[:_SHOWN]}, which is not text"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"column {name!r} holds what is not UTF-8 text"
    return ""
