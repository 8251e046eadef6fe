from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bebert_ray.data.columns import Columns

CLS, SEP, GOOD, BAD = 2, 3, 20, 21  # tokens of the tiny vocabulary; the last two carry the label


class Bag(nn.Module):
    """The least that can be trained: the mean of the word embeddings, and a classifier."""

    def __init__(self, num_labels: int = 2, dropout: float = 0.0):
        super().__init__()
        self.config = SimpleNamespace(num_labels=num_labels)
        self.word_embeddings = nn.Embedding(101, 8, sparse=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8, num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> SimpleNamespace:
        mask = attention_mask[..., None].float()
        mean = (self.word_embeddings(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.classifier(self.dropout(mean)))


def make_columns(n: int, regression: bool = False, seed: int = 0) -> Columns:
    """Sentences of 4 to 14 tokens, one of which says how it is labelled."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    sentences = []
    for label in labels:
        words = rng.integers(30, 80, rng.integers(2, 12))
        words[rng.integers(len(words))] = GOOD if label else BAD
        sentences.append(np.concatenate([[CLS], words, [SEP]]))
    lengths = [len(sentence) for sentence in sentences]
    input_ids = np.concatenate(sentences).astype(np.int32)
    return Columns(
        input_ids,
        np.zeros(len(input_ids), np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
        labels.astype(np.float32) if regression else labels,
    )


@pytest.fixture(scope="session")
def examples() -> Callable[..., Columns]:
    return make_columns


@pytest.fixture
def bag() -> Callable[..., Bag]:
    """Makes equal bags of words for equal seeds."""

    def make(seed: int = 0, dropout: float = 0.0) -> Bag:
        torch.manual_seed(seed)
        return Bag(dropout=dropout)

    return make
