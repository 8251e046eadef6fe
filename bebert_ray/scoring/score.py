"""Score one part: read it, list the bad rows, score the others, write both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bebert_ray.data.formats import Added, format_of, shown
from bebert_ray.errors import failing
from bebert_ray.paths import is_utf8
from bebert_ray.scoring.classifier import Card, Classifier
from bebert_ray.scoring.parts import Part, check_unchanged
from bebert_ray.storage import Location, write_atomic

_NOT_FINITE = "the model gives NaN or infinity"


@dataclass(frozen=True)
class Job:
    """What all parts have in common.

    Attributes:
        model: The directory of the model.
        card: What the model's configuration tells.
        output: The directory of the output files.
        text_columns: One column, or the two of a pair.
        prefix: Of the names of the columns that are added.
        batch_size: Texts in a forward pass.
        inputs: Size and time of change of each input file, as it was planned with.
        cascade: Whether members are asked one after another.
    """

    model: Location
    card: Card
    output: Location
    text_columns: tuple[str, ...]
    prefix: str
    batch_size: int
    inputs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cascade: bool = False


def score_part(job: Job, classifier: Classifier, part: Part) -> int:
    """Score a part, and write its output file.

    The list of bad rows is written first; so a part whose output file is there is done. Rows for
    which the model gives NaN or infinity are bad.

    Returns:
        How many rows are bad.

    Raises:
        UserError: The input cannot be read or has changed.
        RunError: The output cannot be written.
    """
    source, kind = Location.parse(part.source), format_of(part.name)
    planned = job.inputs.get(part.source)
    rows = kind.read(source, part.span, job.text_columns, job.card.names(job.prefix))
    if planned is not None:
        check_unchanged(source, *planned)
    bad, kept = list(rows.bad), []
    for position, texts in enumerate(zip(*rows.values, strict=True)):
        if problem := _problem(job.text_columns, texts, kind.empty_is_missing):
            bad.append((rows.numbers[position], problem))
        else:
            kept.append(position)
    scores = classifier.score([[column[i] for i in kept] for column in rows.values])
    finite = np.isfinite(scores).all(axis=1)
    bad += [(rows.numbers[kept[i]], _NOT_FINITE) for i in np.flatnonzero(~finite)]
    kept = [kept[i] for i in np.flatnonzero(finite)]
    added = _partition(part, source, len(kept)) | job.card.columns(scores[finite], job.prefix)
    content = kind.write(rows.data, kept, added)
    with failing(part.name):
        if bad:
            lines = [{"file": part.source, "row": row, "reason": why} for row, why in sorted(bad)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_atomic(job.output / part.bad_rows, text)
        write_atomic(job.output / part.name, content)
    return len(bad)


def _partition(part: Part, source: Location, count: int) -> Added:
    """The columns that the input's directories name, unless the file has them itself."""
    there = format_of(part.name).columns(source, ()) if part.partition else []
    return {
        name: pa.array([value] * count, pa.string())
        for name, value in part.partition.items()
        if name not in there
    }


def _problem(names: tuple[str, ...], texts: tuple[Any, ...], empty_is_missing: bool) -> str:
    for name, text in zip(names, texts, strict=True):
        if text is None or (empty_is_missing and text == ""):
            return f"no text in column {shown(name)}"
        if isinstance(text, bytes) or (isinstance(text, str) and not is_utf8(text)):
            return f"column {shown(name)} holds what is not UTF-8 text"
        if not isinstance(text, str):
            return f"column {shown(name)} holds {shown(text)}, which is not text"
    return ""
