"""Word vectors: of a GloVe text file or of an encoder, and the nearest words of a word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bebert_ray.errors import UserError

_PRODUCTS = 2**24  # similarities that are held at a time


@dataclass(frozen=True)
class Vectors:
    """Words and their vectors.

    Attributes:
        words: V words, none twice.
        matrix: [V, d] float32, rows of length 1.
    """

    words: tuple[str, ...]
    matrix: np.ndarray

    @cached_property
    def _row(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    def find(self, word: str) -> int | None:
        """The row of a word, or else of its lower case; None if it has no vector."""
        row = self._row.get(word)
        return self._row.get(word.lower()) if row is None else row

    def nearest(self, words: Iterable[str], count: int) -> dict[str, list[str]]:
        """The nearest words by cosine of each word that has a vector, the nearest first.

        Args:
            words: any words; their order, and which others are asked for, make no difference but
                in the last bits of a cosine, which do not count.
            count: nearest words of each; the word itself, in any case, is not among them.
        """
        rows = {word: row for word in sorted(set(words)) if (row := self.find(word)) is not None}
        asked, found = list(rows), {}
        step = max(1, _PRODUCTS // len(self.words))
        most = min(count + 4, len(self.words))  # the word itself is among them, in some cases
        for start in range(0, len(asked), step):
            part = asked[start : start + step]
            cosines = self.matrix[[rows[word] for word in part]] @ self.matrix.T
            for word, near in zip(part, np.round(cosines, 5), strict=True):
                best = np.flatnonzero(near >= np.partition(near, -most)[-most])
                best = best[np.lexsort((best, -near[best]))]
                others = [self.words[row] for row in best]
                found[word] = [each for each in others if each.lower() != word.lower()][:count]
        return found


def make_vectors(words: list[str], matrix: np.ndarray, numbers: bool) -> Vectors:
    """The vectors of what is a whole word of letters, or also digits if `numbers` is set."""
    rows = [row for row, word in enumerate(words) if is_word(word, numbers)]
    kept = matrix[rows].astype(np.float32)
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return Vectors(tuple(words[row] for row in rows), kept / np.maximum(lengths, 1e-12))


def is_word(text: str, numbers: bool) -> bool:
    """Whether a text is one whole word, of letters or (with `numbers`) letters and digits.

    Examples:
        >>> is_word("tree", False), is_word("##s", True), is_word("x2", False), is_word("x2", True)
        (True, False, False, True)
    """
    return len(text) > 1 and (text.isalnum() if numbers else text.isalpha())


def read_glove(path: Path, numbers: bool) -> Vectors:
    """Read word vectors from a text file: a line is a word and its d numbers, parted by spaces.

    The first line may tell the number of words and d, as word2vec and fastText write it.

    Raises:
        UserError: the file cannot be read, has no vectors, or a line is torn; it tells which.
    """
    words: list[str] = []
    rows: list[np.ndarray] = []
    seen: set[str] = set()
    width = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                word, vector = _parse_line(line, width, path, number)
                if number == 1 and len(vector) == 1:
                    continue  # the header
                width = width or len(vector)
                if word not in seen and is_word(word, numbers):
                    seen.add(word)
                    words.append(word)
                    rows.append(vector)
    except OSError as error:
        raise UserError(f"data.augment.vectors: cannot read {path}: {error.strerror}") from error
    if not rows:
        raise UserError(f"data.augment.vectors: {path} has no vector of a word")
    return make_vectors(words, np.stack(rows), numbers)


def check_vectors(path: Path) -> str:
    """SHA-256 of a file of word vectors, whose first lines are checked.

    Raises:
        UserError: it cannot be read, or they are something else.
    """
    try:
        with path.open("rb") as file:
            width = 0
            for number, line in zip(range(1, 4), file, strict=False):
                _, vector = _parse_line(line, width, path, number)
                width = 0 if number == 1 and len(vector) == 1 else len(vector)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"data.augment.vectors: cannot read {path}: {error.strerror}") from error


def _parse_line(line: bytes, width: int, path: Path, number: int) -> tuple[str, np.ndarray]:
    parts = line.rstrip(b" \r\n").split(b" ")
    # Of a few words in published files there are spaces in the word.
    head = max(1, len(parts) - width) if width else 1
    try:
        numbers = np.array(parts[head:], dtype=np.float32)
        if not len(numbers) or (width and len(numbers) != width) or not np.isfinite(numbers).all():
            raise ValueError
        return b" ".join(parts[:head]).decode(errors="replace"), numbers
    except ValueError:
        wanted = f"{width} numbers" if width else "its numbers"
        raise UserError(
            f"data.augment.vectors: {path}, line {number}: is not a word and {wanted} parted by "
            "spaces; is the file cut off or of another format?"
        ) from None
