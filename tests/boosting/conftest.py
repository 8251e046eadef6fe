"""Members without models, whose logits are made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from bebert_ray.boosting.vote import combine
from bebert_ray.data.metrics import evaluate, primary
from bebert_ray.data.tasks import TASKS, Task


@dataclass(frozen=True, eq=False)
class Library:
    """Members' held-out logits, [M, n, K], and the labels, [n]."""

    task: Task
    logits: np.ndarray
    labels: np.ndarray

    def score(self, alphas: Any) -> float:
        scores = combine(self.logits, alphas)
        return evaluate(self.task, scores, self.labels)[primary(self.task)]

    @property
    def uniform(self) -> np.ndarray:
        return np.full(len(self.logits), 1 / len(self.logits))


def make_library(name: str, members: int, n: int, seed: int, skill: float = 1.0) -> Library:
    """Members that are right more often than not, each in its own way."""
    task, rng = TASKS[name], np.random.default_rng(seed)
    if task.is_regression:
        labels = rng.uniform(0, 5, n).astype(np.float32)
        logits = labels[None, :, None] + rng.normal(scale=2, size=(members, n, 1))
    else:
        labels = rng.integers(task.num_labels, size=n)
        logits = rng.normal(size=(members, n, task.num_labels))
        logits[:, np.arange(n), labels] += skill * rng.random((members, 1))
    return Library(task, logits.astype(np.float32), labels)


libraries = st.builds(
    make_library,
    name=st.sampled_from(["mrpc", "cola", "mnli", "stsb"]),
    members=st.integers(1, 6),
    n=st.integers(2, 60),
    seed=st.integers(0, 10**6),
    skill=st.sampled_from([0.0, 1.0, 3.0]),
)


@pytest.fixture
def library() -> Library:
    """Four members and 408 examples, as MRPC's dev set has."""
    return make_library("mrpc", 4, 408, seed=0)
