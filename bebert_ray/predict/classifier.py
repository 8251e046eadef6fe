"""A finished model, from texts to scores. Any sequence classifier of transformers will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

import bebert_ray.packed  # noqa: F401  tells the Auto classes of packed ensembles
from bebert_ray.data.batches import eval_batches
from bebert_ray.errors import UserError
from bebert_ray.predict.rows import Added
from bebert_ray.storage import Location, exists, fingerprint, local_copy
from bebert_ray.storage.hashing import checksum

# transformers prints a loading report and a progress bar; problems are told in one message here.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_TOKENIZED_TOGETHER = 256  # texts; the tokens of many long ones would take gigabytes
_PAD_MULTIPLE = 8
_LENGTH = 512  # tokens, for models that name no limit
_DECIMALS = 7  # of a probability; models compute in float32, which tells no more apart

# What loading raises where files are missing, of another kind, or damaged.
_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class Card:
    """What a model directory says of itself.

    Attributes:
        labels: names of the classes by index; None for regression.
        text_columns: the columns that it was trained on, if it says so.
        digest: hash of all its files.
    """

    labels: tuple[str, ...] | None
    text_columns: tuple[str, ...]
    digest: str

    def columns(self, scores: NDArray[np.float64], prefix: str = "") -> Added:
        """The columns that scores become: `label` and `probability_<label>`, or `score`.

        Args:
            scores: [n, K], as of `Classifier.score`.
            prefix: what every name begins with.
        """
        columns = {}
        if self.labels is not None:
            names = [self.labels[index] for index in scores.argmax(axis=1)]
            columns[f"{prefix}label"] = pa.array(names, pa.string())
        ends = ["score"] if self.labels is None else [f"probability_{name}" for name in self.labels]
        for end, values in zip(ends, scores.T, strict=True):
            columns[prefix + end] = pa.array(values.round(_DECIMALS))
        return columns

    def names(self, prefix: str) -> list[str]:
        """The names of these columns."""
        return list(self.columns(np.zeros((0, len(self.labels or "1"))), prefix))


def read_card(model: Location) -> Card:
    """Look at a model without loading it.

    Raises:
        UserError: there is none, or none that gives a text one label or score.
    """
    if not exists(model / "config.json"):
        raise UserError(
            f"--model {model}: there is no model; give a directory with config.json, as model/ in "
            "the directory of a run"
        )
    path = local_copy(model)
    try:
        config: Any = AutoConfig.from_pretrained(path)
    except _UNLOADABLE as error:
        raise _unloadable(model, error) from error
    if config.problem_type == "multi_label_classification":
        raise UserError(f"--model {model}: gives a text several labels, which is not supported")
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return Card(
        names if len(names) > 1 else None,
        tuple(getattr(config, "text_columns", None) or ()),
        fingerprint({file.relative_to(path).as_posix(): checksum(file) for file in files}),
    )


class Classifier:
    """A model, loaded, on the GPU if there is one.

    Args:
        model: its directory.
        batch_size: texts in a forward pass.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, model: Location, batch_size: int):
        self._batch_size = batch_size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            path = local_copy(model)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
            self._model: Any = AutoModelForSequenceClassification.from_pretrained(path)
        except _UNLOADABLE as error:
            raise _unloadable(model, error) from error
        self._model.eval().to(self._device)
        positions = getattr(self._model.config, "max_position_embeddings", _LENGTH)
        self._max_length = min(self._tokenizer.model_max_length, positions)

    def score(self, texts: Sequence[list[str]]) -> NDArray[np.float64]:
        """Score texts, or pairs of texts; those of like length go through the model together.

        Args:
            texts: one list of n texts, or the two lists of n pairs.

        Returns:
            [n, K], K > 1: the probability of each class, softmax(logits). Or [n, 1]: the predicted
            value.
        """
        examples = self._tokenize(texts)
        lengths = np.array([len(example["input_ids"]) for example in examples], np.int64)
        logits = np.zeros((len(examples), self._model.config.num_labels))
        for index in eval_batches(lengths, self._batch_size):
            logits[index] = self._logits([examples[i] for i in index])
        if logits.shape[1] == 1:
            return logits
        return torch.softmax(torch.from_numpy(logits), dim=1).numpy()

    def _tokenize(self, texts: Sequence[list[str]]) -> list[dict[str, list[int]]]:
        examples = []
        for start in range(0, len(texts[0]), _TOKENIZED_TOGETHER):
            columns = self._tokenizer(
                *(column[start : start + _TOKENIZED_TOGETHER] for column in texts),
                truncation="longest_first",
                max_length=self._max_length,
            )
            rows = zip(*columns.values(), strict=True)
            examples += [dict(zip(columns, row, strict=True)) for row in rows]
        return examples

    @torch.inference_mode()
    def _logits(self, examples: list[dict[str, list[int]]]) -> NDArray[np.float32]:
        batch = self._tokenizer.pad(examples, pad_to_multiple_of=_PAD_MULTIPLE, return_tensors="pt")
        logits: torch.Tensor = self._model(**batch.to(self._device)).logits
        return logits.float().cpu().numpy()


def _unloadable(model: Location, error: Exception) -> UserError:
    reason = str(error).strip() or repr(error)
    return UserError(f"--model {model}: cannot be loaded ({reason.splitlines()[0]})")
