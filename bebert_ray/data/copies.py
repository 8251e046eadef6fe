"""Augmented copies of training examples, and the epochs in which they take their originals' place.

A copy is never an example of its own: it stands in for its original in some epochs. So the number
of steps of an epoch does not change, and the label, the `sample_weight` and the index of the
original are those of all its copies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bebert_ray.data.columns import Columns

COPIES = "copies"
"""Stands among the names of the splits, where they are handed to workers as arrays."""


@dataclass(frozen=True)
class Copies:
    """Augmented copies of the examples of a split.

    Attributes:
        columns: the m copies, tokenised, those of one example beside each other; their labels are
            those of the examples.
        origin: [m] int64, ascending: the row of the split that each is a copy of.
    """

    columns: Columns
    origin: np.ndarray

    def __len__(self) -> int:
        """The number of copies."""
        return len(self.origin)

    def part(self, number: int, parts: int) -> Copies:
        """Every `parts`-th copy of each example, from its copy `number` on: [number, parts + ...].

        Examples:
            >>> ids = np.arange(4, dtype=np.int32)
            >>> columns = Columns(ids, np.zeros(4, np.int8), np.arange(5), np.zeros(4, np.int64))
            >>> Copies(columns, np.array([0, 0, 0, 2])).part(1, 2).columns.input_ids.tolist()
            [1]
        """
        chosen = np.flatnonzero(self._rank % parts == number)
        return Copies(self.columns.take(chosen), self.origin[chosen])

    def mix(self, examples: Columns, share: float, rng: np.random.Generator) -> Columns:
        """An epoch's examples: each is a copy of its own with probability `share`.

        Args:
            examples: the n examples of the split.
            share: probability, from 0 to 1. Examples without a copy stay as they are.
            rng: source of every random choice.

        Returns:
            n examples in the order of `examples`, with their labels.
        """
        n = len(examples)
        count = np.bincount(self.origin, minlength=n)
        first = np.concatenate([[0], np.cumsum(count)[:-1]])
        replaced = (rng.random(n) < share) & (count > 0)
        drawn = first + np.floor(rng.random(n) * count).astype(np.int64)
        both = Columns(
            np.concatenate([examples.input_ids, self.columns.input_ids]),
            np.concatenate([examples.token_type_ids, self.columns.token_type_ids]),
            np.concatenate([examples.offsets, examples.offsets[-1] + self.columns.offsets[1:]]),
            np.concatenate([examples.labels, examples.labels[self.origin]]),
        )
        mixed = both.take(np.where(replaced, n + drawn, np.arange(n)))
        return replace(mixed, labels=examples.labels)

    @property
    def _rank(self) -> np.ndarray:
        # Of each copy, its number among those of its example.
        return np.arange(len(self)) - np.searchsorted(self.origin, self.origin)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, uncopied; see `Columns.to_arrays`."""
        return {**self.columns.to_arrays(), "origin": self.origin}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Copies:
        """Wrap what `to_arrays` gave, uncopied; read-only arrays will do."""
        columns = {name: array for name, array in arrays.items() if name != "origin"}
        return cls(Columns.from_arrays(columns), arrays["origin"])
