"""Disturbed texts: each function takes a text, a strength and a source of random choices.

What is random is drawn for every word or letter, disturbed or not. So with the same generator a
greater strength disturbs what a smaller one does, and more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from bebert_ray.augment.words import find_words, replace_words

Perturb = Callable[[str, float, np.random.Generator], str]

_TOKEN = re.compile(r"\S+")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOOKALIKES = dict(
    zip("aceiopsxyABCEHIKMOPTX", "асеіорѕхуАВСЕНІКМОРТХ", strict=True)  # noqa: RUF001 (Cyrillic)
)
_ACUTE = "\u0301"


def typos(text: str, strength: float, rng: np.random.Generator) -> str:
    """In each word of two or more letters, with this probability, one typing error.

    Two letters change places, one is left out, doubled, or hit on a neighbouring key (QWERTY).
    """
    words = find_words(text)
    drawn = rng.random((len(words), 4))
    wrong = [
        (word, _typo(word.text, kind, place, key))
        for word, (whether, kind, place, key) in zip(words, drawn, strict=True)
        if whether < strength and len(word.text) > 1
    ]
    return replace_words(text, wrong, cased=False)


def delete(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each word is left out with this probability; one stays at least."""
    tokens = _TOKEN.findall(text)
    drawn = rng.random(len(tokens))
    kept = [token for token, whether in zip(tokens, drawn, strict=True) if whether >= strength]
    return " ".join(kept or tokens[:1])


def order(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each word changes places with the next one with this probability."""
    tokens = _TOKEN.findall(text)
    drawn = rng.random(len(tokens))
    for i in range(len(tokens) - 1):
        if drawn[i] < strength:
            tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
    return " ".join(tokens)


def case(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each letter changes its case with this probability; no matter to uncased models."""
    drawn = rng.random(len(text))
    return "".join(
        letter.swapcase() if whether < strength else letter
        for letter, whether in zip(text, drawn, strict=True)
    )


def unicode(text: str, strength: float, rng: np.random.Generator) -> str:
    """Each letter is replaced with this probability by one that looks like it.

    It is a Cyrillic letter of the same shape if there is one, or has an accent.
    """
    drawn = rng.random((len(text), 2))
    return "".join(
        _lookalike(letter, which) if whether < strength and letter.isalpha() else letter
        for letter, (whether, which) in zip(text, drawn, strict=True)
    )


def truncate(text: str, strength: float, _: np.random.Generator) -> str:
    """This share of the words is cut off at the end; one stays at least.

    Examples:
        >>> truncate("one two three four", 0.5, np.random.default_rng(0))
        'one two'
    """
    ends = [match.end() for match in _TOKEN.finditer(text)]
    if not ends:
        return text
    return text[: ends[max(0, math.ceil(len(ends) * (1 - strength) - 1e-9) - 1)]]


TEXT: dict[str, Perturb] = {
    "typos": typos,
    "delete": delete,
    "order": order,
    "case": case,
    "unicode": unicode,
    "truncate": truncate,
}
"""The functions above by name."""


def _typo(word: str, kind: float, place: float, key: float) -> str:
    i = int(place * (len(word) - 1))
    match int(kind * 4):
        case 0:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        case 1:
            return word[:i] + word[i + 1 :]
        case 2:
            return word[: i + 1] + word[i:]
        case _:
            near = _neighbours(word[i].lower()) or word[i]
            hit = near[int(key * len(near))]
            return word[:i] + (hit.upper() if word[i].isupper() else hit) + word[i + 1 :]


def _neighbours(letter: str) -> str:
    for number, row in enumerate(_ROWS):
        if (i := row.find(letter)) >= 0:
            beside = row[max(0, i - 1) : i] + row[i + 1 : i + 2]
            other = _ROWS[number + 1 if number < 2 else number - 1]
            return beside + other[max(0, i - 1) : i + 1]
    return ""


def _lookalike(letter: str, which: float) -> str:
    if which < 0.5 and letter in _LOOKALIKES:
        return _LOOKALIKES[letter]
    return letter + _ACUTE
