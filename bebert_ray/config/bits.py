"""How many bits a model's weights, embeddings and activations have: W-E-A, such as 1-1-8."""

from __future__ import annotations

import re
from typing import NamedTuple

FULL_WIDTH = ("1-1-2", "1-1-1")
"""Bits of members that have the teacher's width: their weights are not split from ternary ones."""


class Bits(NamedTuple):
    """The widths of a quantized model, in bits.

    Attributes:
        weights: of a weight of the encoder.
        embeddings: of a weight of the word embeddings.
        activations: of every operand of a matrix product that is no weight.

    >>> Bits.parse("1-1-8")
    Bits(weights=1, embeddings=1, activations=8)
    >>> str(Bits(1, 1, 4))
    '1-1-4'
    """

    weights: int
    embeddings: int
    activations: int

    @classmethod
    def parse(cls, text: str) -> Bits:
        """Read a W-E-A triple.

        Raises:
            ValueError: the text is none.
        """
        if not re.fullmatch(r"\d+-\d+-\d+", text, re.ASCII):
            raise ValueError(f"bits are written W-E-A, such as 1-1-8, not {text!r}")
        return cls(*map(int, text.split("-")))

    def __str__(self) -> str:
        return "-".join(map(str, self))
