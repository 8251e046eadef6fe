"""A finished model, from texts to scores: any sequence classifier of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

import bebert_ray.packed  # noqa: F401  registers packed ensembles with the Auto classes
from bebert_ray.data.batches import eval_batches, pad_multiple
from bebert_ray.data.columns import warn_of_unknown
from bebert_ray.data.formats import Added, listed
from bebert_ray.data.formats.safe import check_names
from bebert_ray.errors import UserError
from bebert_ray.nn.model_files import (
    TOKENIZER_FILES,
    WEIGHTS,
    check_file,
    check_finite,
    check_sizes,
    read_json,
    refusing,
    weight_files,
)
from bebert_ray.nn.vocabulary import check_ids, setting
from bebert_ray.storage import Location, exists, fingerprint, local_copy, read
from bebert_ray.storage.hashing import checksum

# transformers prints a loading report and a progress bar; problems are told in one message here.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_TOKENIZED_TOGETHER = 256  # texts; the tokens of many long ones would take gigabytes
_LENGTH = 512  # tokens, for models that name no limit
_DECIMALS = 7  # of a probability; models compute in float32, which tells no more apart


# What computing raises where a model is no classifier of texts; want of memory is another error.
_UNSCORABLE = (
    *(ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError),
    NotImplementedError,
)


@dataclass(frozen=True)
class Card:
    """What a model's configuration tells.

    Attributes:
        labels: Names of the classes by index; None for regression.
        text_columns: The columns that it was trained on; empty if it does not name them.
        digest: Hash of all its files.
        has_cascade: Whether it can ask its members one after another.
    """

    labels: tuple[str, ...] | None
    text_columns: tuple[str, ...]
    digest: str
    has_cascade: bool = False

    def columns(self, scores: NDArray[np.float64], prefix: str = "") -> Added:
        """The columns that scores become: `label` and `probability_<label>`, or `score`.

        Args:
            scores: [n, K], as of `Classifier.score`.
            prefix: What every name begins with.

        Examples:
            >>> card = Card(("bad", "good"), (), "")
            >>> {name: values.to_pylist() for name, values in
            ...  card.columns(np.array([[0.25, 0.75]])).items()}
            {'label': ['good'], 'probability_bad': [0.25], 'probability_good': [0.75]}
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
    """Read a model's configuration without loading the model.

    Raises:
        UserError: There is no model, it needs code of its own, it gives a text several labels, or
            its classes cannot name columns.
    """
    if not exists(model / "config.json"):
        raise UserError(
            f"--model {model}: there is no model; give a directory with config.json, as model/ in "
            "the directory of a run"
        )
    for name in ("config.json", "tokenizer_config.json"):
        _check_code(model, name)
    path, fault = local_copy(model), f"--model {model}: cannot be loaded: "
    with refusing(fault):
        settings = read_json(path / "config.json", fault)
        if settings.get("model_type") is None:
            raise UserError(f"{fault}config.json lacks the key model_type, which says what it is")
        check_sizes(settings, f"{fault}config.json: ")
        config: Any = AutoConfig.from_pretrained(path, trust_remote_code=False)
        names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        _check_files(path, fault)
    if config.problem_type == "multi_label_classification":
        raise UserError(f"--model {model}: gives a text several labels, which is not supported")
    check_names(names, f"--model {model}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return Card(
        names if len(names) > 1 else None,
        tuple(getattr(config, "text_columns", None) or ()),
        fingerprint({file.relative_to(path).as_posix(): checksum(file) for file in files}),
        getattr(config, "cascade_settings", None) is not None,
    )


def _check_files(path: Path, fault: str) -> None:
    """Refuse files that are not what their names say, and weights that are not finite."""
    files = weight_files(path, fault)
    if not files:
        raise UserError(f"{fault}it has no weights ({' or '.join(WEIGHTS)}, or an index of shards)")
    check_finite(files, fault)
    for pattern in TOKENIZER_FILES:
        for file in path.glob(pattern):
            check_file(file, fault)


def check_tokens(model: Location, pairs: bool) -> None:
    """Refuse a model whose tokenizer gives ids that its tables have no rows for.

    Args:
        model: its directory.
        pairs: whether pairs of texts are to be scored.

    Raises:
        UserError: the tokenizer and the model do not fit, or the tokenizer cannot be read.
    """
    path = local_copy(model)
    with refusing(f"--model {model}: cannot be loaded: "):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        check_ids(tokenizer, config, f"--model {model}", pairs)


def _check_code(model: Location, name: str) -> None:
    """Refuse a model that brings code of its own (`auto_map`); damaged files are refused later."""
    try:
        settings = json.loads(read(model / name))
    except (FileNotFoundError, ValueError, RecursionError):
        return
    if isinstance(settings, dict) and settings.get("auto_map"):
        raise UserError(
            f"--model {model}: needs code of its own (auto_map in {name}), which is never run; use "
            "a model of an architecture that transformers has"
        )


class Classifier:
    """A loaded model.

    Args:
        model: Its directory.
        batch_size: Texts in a forward pass.
        cascade: Whether members are asked one after another; the model has a cascade.
        device: Where it computes; None for the GPU, or the CPU if there is none.

    Raises:
        UserError: It cannot be loaded, or its tensors are not those of a sequence classifier.
    """

    def __init__(
        self,
        model: Location,
        batch_size: int,
        cascade: bool = False,
        device: torch.device | None = None,
    ):
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._name = f"--model {model}"
        with refusing(f"{self._name}: cannot be loaded: "):
            path = local_copy(model)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                path,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named and refused below
                **({"cascade": True} if cascade else {}),
            )
        self._model, found = loaded
        _check_tensors(self._name, found)
        self._model.eval().to(self._device)
        self._max_length = min(self._tokenizer.model_max_length, _positions(self._model))
        # Without a padding token, texts of different lengths cannot share a forward pass.
        self._pads = self._tokenizer.pad_token is not None
        self._batch_size = batch_size if self._pads else 1
        if self._pads and getattr(self._model.config, "pad_token_id", 0) is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._checked = False

    @property
    def network(self) -> Any:
        """The model itself."""
        return self._model

    def score(self, texts: Sequence[list[str]]) -> NDArray[np.float64]:
        """Score texts, or pairs of texts; those of like length share forward passes.

        Args:
            texts: One list of n texts, or the two lists of n pairs.

        Returns:
            [n, K], K > 1: the probability of each class, softmax(logits). Or [n, 1]: the predicted
            value. A row is not finite where the model's logits are not.

        Raises:
            UserError: The model cannot compute these texts.
        """
        try:
            examples = self._tokenize(texts)
            lengths = np.array([len(example["input_ids"]) for example in examples], np.int64)
            logits = np.zeros((len(examples), self._model.config.num_labels))
            for index in eval_batches(lengths, self._batch_size):
                logits[index] = self._logits([examples[i] for i in index])
        except _UNSCORABLE as error:
            reason = (str(error).strip().splitlines() or [repr(error)])[0][:150]
            raise UserError(f"{self._name}: cannot score these texts ({reason})") from error
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
        if examples and not self._checked:
            self._checked = True
            tokens = np.fromiter(
                chain.from_iterable(example["input_ids"] for example in examples), np.int64
            )
            warn_of_unknown(tokens, self._tokenizer, self._name)
        return examples

    @torch.inference_mode()
    def _logits(self, examples: list[dict[str, list[int]]]) -> NDArray[np.float32]:
        multiple = pad_multiple(self._device)
        # A limit that is no such multiple must not be passed by padding.
        longest = max(len(example["input_ids"]) for example in examples)
        fits = self._pads and -(-longest // multiple) * multiple <= self._max_length
        batch = self._tokenizer.pad(
            examples,
            padding=self._pads,
            pad_to_multiple_of=multiple if fits else None,
            return_tensors="pt",
        )
        logits: torch.Tensor = self._model(**batch.to(self._device)).logits
        return logits.float().cpu().numpy()


def _positions(model: Any) -> int:
    """The most tokens that a model's table of positions has room for.

    RoBERTa and its kin count positions from padding_idx + 1; so their tables of 514 rows have room
    for 512 tokens.
    """
    limit = setting(model.config, "max_position_embeddings") or 0
    if limit < 1:  # XLNet says -1: it has no such table
        limit = _LENGTH
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(limit)


def _check_tensors(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a model with tensors that are missing, unexpected or of another shape."""
    for kind, what in (
        ("missing_keys", "has no"),
        ("mismatched_keys", "has another shape of"),
        ("unexpected_keys", "has, beside what a classifier has,"),
    ):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in found.get(kind) or ())
        if keys:
            raise UserError(
                f"{name}: {what} {listed(keys)}; give a sequence classifier that was trained, "
                "saved whole"
            )
