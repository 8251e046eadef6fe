"""Packed models by place: their directory, the run that made them, or the URI of either."""

from __future__ import annotations

from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bebert_ray.errors import RunError, UserError
from bebert_ray.nn.model_files import MOST, refusing
from bebert_ray.packed.config import BebertConfig, check_settings
from bebert_ray.packed.extent import check_extent
from bebert_ray.packed.layers import pack_
from bebert_ray.packed.manifest import MANIFEST, check
from bebert_ray.packed.model import BebertForSequenceClassification
from bebert_ray.packed.quantizer import FLOAT_BITS, PackedConfig, check_tensors
from bebert_ray.packed.summary import Summary, summarize
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
    with refusing(f"{place} cannot be loaded: "):
        model: BebertForSequenceClassification = BebertForSequenceClassification.from_pretrained(
            _directory(place)
        )
    return model


def find_model(place: str | PathLike[Any]) -> Path:
    """The directory, on this machine, of a packed model that is whole; see `load_model`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    with refusing(f"{place} cannot be read: "):
        directory = _directory(place)
        check(directory)
    return directory


def read_summary(place: str | PathLike[Any], tokens: int | None = None) -> Summary:
    """What a packed model costs, from its configuration and the list of its tensors.

    Args:
        place: see `load_model`.
        tokens: length of a sentence; None for the most that its tokenizer lets through.

    Raises:
        UserError: see `load_model`.
    """
    with refusing(f"{place} cannot be read: "):
        directory = find_model(place)
        config = check_extent({file.name: file for file in directory.iterdir()})
        with torch.device("meta"):
            model: Any = BebertForSequenceClassification(config)
        pack_(model)
        check_tensors(model, [str(file) for file in sorted(directory.glob("*.safetensors"))])
        if tokens is None:
            tokens = AutoTokenizer.from_pretrained(directory).model_max_length
            if not isinstance(tokens, int) or not 0 < tokens <= MOST["max_position_embeddings"]:
                raise UserError(f"{directory}: model_max_length of the tokenizer is no length")
        return summarize(
            check_settings(config),
            members=len(config.alphas or ()),
            float_bits=FLOAT_BITS[PackedConfig(**_options(config)).remainder],
            tokens=tokens,
            directory=directory,
            asked=(config.cascade_settings or {}).get("members"),
        )


def _options(config: BebertConfig) -> dict[str, Any]:
    given: Any = config.quantization_config
    return dict(given if isinstance(given, dict) else given.to_dict())


def _directory(place: str | PathLike[Any]) -> Path:
    text = expand(str(place))
    directory = _fetched(text) if "://" in text else _local(Path(text))
    if directory is None:
        raise UserError(f"{text[:300]} is neither a packed model nor a run that has made one")
    return directory


def _local(given: Path) -> Path | None:
    for directory in (given, given / MODEL):
        with suppress(FileNotFoundError, NotADirectoryError):
            (directory / MANIFEST).stat()  # where it may not be looked at, this tells
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
