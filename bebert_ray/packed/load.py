"""Packed models by place: their directory, the run that made them, or the URI of either."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from bebert_ray.errors import RunError, UserError
from bebert_ray.packed.manifest import MANIFEST, check
from bebert_ray.packed.model import BebertForSequenceClassification
from bebert_ray.paths import expand

MODEL = "model"
"""Directory of the packed model in a run directory."""


def load_model(place: str | PathLike[Any]) -> BebertForSequenceClassification:
    """Load a packed model, checked, on the CPU and in eval mode.

    A name on the Hugging Face hub is not a place here: for it there is
    `BebertForSequenceClassification.from_pretrained`.

    Args:
        place: directory of the model; or a run directory, whose `model` directory it is; or a URI
            of either, such as s3://bucket/runs/mrpc, which is fetched (this needs pyarrow).

    Raises:
        UserError: there is no packed model, it is damaged, or a tensor or a setting is missing,
            unexpected or does not fit.

    Examples:
        >>> model = load_model("runs/mrpc")  # doctest: +SKIP
        >>> tokenizer = AutoTokenizer.from_pretrained("runs/mrpc/model")  # doctest: +SKIP
        >>> inputs = tokenizer("It rains.", "Rain falls.", return_tensors="pt")  # doctest: +SKIP
        >>> model(**inputs).logits.softmax(-1)  # doctest: +SKIP
        tensor([[0.1203, 0.8797]])
    """
    model: BebertForSequenceClassification = BebertForSequenceClassification.from_pretrained(
        _directory(place)
    )
    return model


def find_model(place: str | PathLike[Any]) -> Path:
    """The directory, on this machine, of a packed model that is whole; see `load_model`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    directory = _directory(place)
    check(directory)
    return directory


def _directory(place: str | PathLike[Any]) -> Path:
    text = expand(str(place))
    directory = _fetched(text) if "://" in text else _local(Path(text))
    if directory is None:
        raise UserError(f"{text[:300]} is neither a packed model nor a run that has made one")
    return directory


def _local(given: Path) -> Path | None:
    for directory in (given, given / MODEL):
        if (directory / MANIFEST).is_file():
            return directory
    return None


def _fetched(uri: str) -> Path | None:
    from bebert_ray.storage import Location, exists, fetch

    given = Location.parse(uri)
    for place in (given, given / MODEL):
        if exists(place / MANIFEST):
            try:
                return place.local if place.is_local else fetch(place).path
            except RunError as error:
                raise UserError(str(error)) from error
    return None
