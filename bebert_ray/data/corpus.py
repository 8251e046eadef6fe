"""A task's examples as text, wherever they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bebert_ray.data.tasks import Task


@dataclass(frozen=True)
class Split:
    """Examples of one split, in the order of the source.

    Attributes:
        texts: One list of n texts, or the two lists of a sentence pair.
        labels: [n], int64 class indices or float32 scores.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.labels)

    def take(self, index: np.ndarray) -> Split:
        """The examples at ``index``, in its order.

        Examples:
            >>> Split((["a", "b"],), np.array([0, 1])).take(np.array([1])).texts
            (['b'],)
        """
        chosen = index.tolist()
        texts = tuple([column[i] for i in chosen] for column in self.texts)
        return Split(texts, self.labels[index])


@dataclass(frozen=True)
class Corpus:
    """A task with its examples; the first entry of ``dev`` is the one that is reported."""

    task: Task
    train: Split
    dev: dict[str, Split]
