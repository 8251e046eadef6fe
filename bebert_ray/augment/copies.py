"""Copies of examples with some words replaced, after algorithm 1 of TinyBERT.

Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, arXiv 1909.10351: in each
copy a word is replaced with probability p by one of its K candidates. Candidates of a word that is
one token to a masked language model are what the model proposes in its place, those of other words
the words with the nearest vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from bebert_ray.augment.masked import MaskedModel
from bebert_ray.augment.vectors import Vectors
from bebert_ray.augment.words import Rules, Word, key, replace_words, replaceable
from bebert_ray.errors import UserError

Choices = list[list[tuple[Word, list[str]]]]
"""Of each text of an example: its words that can be replaced, in order, and their candidates."""


class Copy(NamedTuple):
    """A copy of an example.

    Attributes:
        origin: row of the example.
        number: of the copy, from 0.
        texts: its one or two texts.
    """

    origin: int
    number: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Replacer:
    """Knows the candidates of words.

    Attributes:
        count: K, the candidates of a word.
        rules: which words are left alone.
        vectors: word vectors, if there are any.
        masked: a masked language model, if there is one; it goes first.
    """

    count: int
    rules: Rules = field(default_factory=Rules)
    vectors: Vectors | None = None
    masked: MaskedModel | None = None

    def check(self) -> None:
        """Check that there are enough words to choose from.

        Raises:
            UserError: there are fewer than `count` others.
        """
        sizes = [] if self.vectors is None else [len(self.vectors.words)]
        sizes += [] if self.masked is None else [self.masked.config["vocab_size"]]
        if self.count >= min(sizes):
            raise UserError(
                f"data.augment.candidates: {self.count} is more than the vocabulary has beside a "
                f"word itself; there are {min(sizes)} words"
            )

    def choices(
        self, examples: Sequence[Sequence[str]], device: torch.device | None = None
    ) -> list[Choices]:
        """The words of each example that can be replaced, with their candidates.

        Args:
            examples: the texts of each.
            device: of the masked language model; None: the CPU.
        """
        words = [replaceable(texts, self.rules) for texts in examples]
        asked = {word.text for found in words for each in found for word in each}
        near = {} if self.vectors is None else self.vectors.nearest(asked, self.count)
        model = None if self.masked is None else self.masked.open(device or torch.device("cpu"))
        made: list[Choices] = []
        for texts, found in zip(examples, words, strict=True):
            choices: Choices = []
            for text, each in zip(texts, found, strict=True):
                proposed = (
                    model.propose(text, each, self.count, not self.rules.keep_numbers)
                    if model is not None and each
                    else {}
                )
                candidates = [
                    (word, proposed.get(index) or near.get(word.text, []))
                    for index, word in enumerate(each)
                ]
                choices.append([(word, options) for word, options in candidates if options])
            made.append(choices)
        return made


def make_copies(
    replacer: Replacer,
    examples: Sequence[Sequence[str]],
    rows: Sequence[int],
    *,
    copies: int,
    probability: float,
    seed: int,
    forbidden: frozenset[str] = frozenset(),
    device: torch.device | None = None,
) -> list[Copy]:
    """Copies of examples. Those that are the same as an earlier one or the original are left out.

    Args:
        replacer: knows the candidates.
        examples: the texts of each.
        rows: the row of each. The random choices in a copy follow from the seed, its row and its
            number alone.
        copies: how many of each example.
        probability: that a word is replaced.
        seed: of the random choices.
        forbidden: what no copy may be the same as, as `words.key` gives it.
        device: of the masked language model; None: the CPU.

    Returns:
        By row in the order of `rows`, and by number.
    """
    made: list[Copy] = []
    for row, texts, choices in zip(rows, examples, replacer.choices(examples, device), strict=True):
        if not any(choices):
            continue
        seen = {key(texts)}
        for number in range(copies):
            rng = np.random.default_rng([seed, row, number])
            new = replace_some(texts, choices, probability, rng)
            if (same := key(new)) not in seen and same not in forbidden:
                seen.add(same)
                made.append(Copy(row, number, new))
    return made


def replace_some(
    texts: Sequence[str], choices: Choices, probability: float, rng: np.random.Generator
) -> tuple[str, ...]:
    """An example's texts, each word replaced with some probability by one of its candidates.

    Args:
        texts: the texts of the example.
        choices: as `Replacer.choices` gives them.
        probability: from 0 to 1.
        rng: source of the random choices; it gives two numbers a word, replaced or not.
    """
    new = []
    for text, words in zip(texts, choices, strict=True):
        drawn = rng.random((len(words), 2))
        new.append(
            replace_words(
                text,
                [
                    (word, options[int(which * len(options))])
                    for (word, options), (whether, which) in zip(words, drawn, strict=True)
                    if whether < probability
                ],
            )
        )
    return tuple(new)
