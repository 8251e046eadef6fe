"""A tokenised split as four flat numpy arrays, which Ray and safetensors hold without a copy."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bebert_ray.data.corpus import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TOKENIZE_BATCH = 4096
_UNKNOWN = 0.9  # share of unknown tokens that calls for a warning
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Ragged token columns; an example's index is its row, and stays so through training.

    Attributes:
        input_ids: [T] int32, the tokens of all examples, one after the other.
        token_type_ids: [T] int8, 1 for the second text of a pair.
        offsets: [n + 1] int64; example i holds the tokens ``offsets[i]:offsets[i + 1]``.
        labels: [n], int64 class indices or float32 scores.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """[n] int64, tokens of each example."""
        return np.diff(self.offsets)

    def take(self, index: np.ndarray) -> Columns:
        """The examples at ``index``, in its order; example ``index[j]`` becomes row j.

        Examples:
            >>> ids = np.array([7, 8, 8], np.int32)
            >>> two = Columns(ids, np.zeros(3, np.int8), np.array([0, 1, 3]), np.array([0, 1]))
            >>> two.take(np.array([1])).input_ids.tolist()
            [8, 8]
        """
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Token t of the result stands as far from its example's start as it did before.
        shift = self.offsets[:-1][index] - offsets[:-1]
        tokens = np.arange(offsets[-1]) + np.repeat(shift, lengths)
        return Columns(
            self.input_ids[tokens], self.token_type_ids[tokens], offsets, self.labels[index]
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, uncopied: the form to put into Ray's object store."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Columns:
        """Wrap what `to_arrays` gave, uncopied; read-only arrays will do."""
        return cls(**arrays)


def tokenize(split: Split, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Columns:
    """Tokenise every example once.

    Args:
        split: Texts and labels of n examples.
        tokenizer: A fast tokenizer of a BERT checkpoint.
        max_length: Most tokens to keep of an example, special tokens included; of a pair, the
            longer text is cut first.
    """
    input_ids: list[list[int]] = []
    token_type_ids: list[list[int]] = []
    for start in range(0, len(split), _TOKENIZE_BATCH):
        batch: Any = tokenizer(
            *(texts[start : start + _TOKENIZE_BATCH] for texts in split.texts),
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        input_ids += batch["input_ids"]
        token_type_ids += batch["token_type_ids"]
    lengths = np.fromiter(map(len, input_ids), np.int64, len(input_ids))
    tokens = np.fromiter(chain.from_iterable(input_ids), np.int32)
    warn_of_unknown(tokens, tokenizer, f"{len(split)} examples")
    return Columns(
        tokens,
        np.fromiter(chain.from_iterable(token_type_ids), np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
        split.labels,
    )


def warn_of_unknown(tokens: np.ndarray, tokenizer: Any, where: str) -> None:
    """Warn if at least 90 % of the tokens, special ones apart, are unknown to the tokenizer.

    Args:
        tokens: Token ids of any number of examples.
        tokenizer: The one that gave them.
        where: What the message begins with.
    """
    unknown = tokenizer.unk_token_id
    special = [token for token in tokenizer.all_special_ids if token != unknown]
    words = tokens[~np.isin(tokens, special)]
    if unknown is not None and len(words) and (words == unknown).mean() >= _UNKNOWN:
        _log.warning(
            "%s: %d of %d tokens are unknown to the tokenizer (%s); is it that of another language "
            "or model?",
            *(where, (words == unknown).sum(), len(words), tokenizer.unk_token),
        )


def save_columns(splits: dict[str, Columns], path: Path) -> None:
    """Write tokenised splits to one safetensors file, whole or not at all."""
    from safetensors.numpy import save_file

    tensors = {
        f"{split}.{name}": np.ascontiguousarray(array)
        for split, columns in splits.items()
        for name, array in columns.to_arrays().items()
    }
    unfinished = path.with_name(path.name + ".tmp")
    save_file(tensors, unfinished)
    os.replace(unfinished, path)


def load_columns(path: Path) -> dict[str, Columns]:
    """Read what `save_columns` wrote, splits by name."""
    from safetensors.numpy import load_file

    splits: dict[str, dict[str, np.ndarray]] = {}
    for key, array in load_file(path).items():
        split, _, name = key.rpartition(".")
        splits.setdefault(split, {})[name] = array
    return {split: Columns.from_arrays(arrays) for split, arrays in splits.items()}
