"""The words of a text: where they are, and which of them may be replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

# Letters and digits; a word with an apostrophe is one word, which no vocabulary has.
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END = ".!?:;\u2026"
_BETWEEN = " \t\r\n\"'`\u201c\u201d\u2018\u2019()[]{}-*"  # may stand before a sentence's first word


class Word(NamedTuple):
    """A word of a text, which is ``text[start:end]``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Rules:
    """Which words are left alone.

    Attributes:
        keep_numbers: those with a digit.
        keep_names: those capitalised within a sentence, wherever they stand in the example.
        keep_stop_words: scikit-learn's English stop words.
    """

    keep_numbers: bool = True
    keep_names: bool = True
    keep_stop_words: bool = True


def find_words(text: str) -> list[Word]:
    """All words of a text, in order.

    Examples:
        >>> [word.text for word in find_words("It's 2 o'clock, e-mail me!")]
        ["It's", '2', "o'clock", 'e', 'mail', 'me']
    """
    return [Word(match.start(), match.end(), match[0]) for match in _WORD.finditer(text)]


def replaceable(texts: Sequence[str], rules: Rules) -> list[list[Word]]:
    """The words of an example that may be replaced, of each of its texts.

    Args:
        texts: the one or two texts of the example.
        rules: which words are left alone.

    Examples:
        >>> text = "Oslo is cold. Buses to Oslo run in 3 lanes"
        >>> [word.text for word in replaceable([text], Rules())[0]]
        ['cold', 'Buses', 'run', 'lanes']
    """
    words = [find_words(text) for text in texts]
    names = {
        word.text
        for text, found in zip(texts, words, strict=True)
        for word in found
        if word.text[0].isupper() and not _begins_sentence(text, word.start)
    }

    def may_change(word: str) -> bool:
        return not (
            (rules.keep_numbers and any(map(str.isdigit, word)))
            or (rules.keep_names and word in names)
            or (rules.keep_stop_words and word.lower() in _stop_words())
        )

    return [[word for word in found if may_change(word.text)] for found in words]


def replace_words(text: str, replacements: Sequence[tuple[Word, str]], cased: bool = True) -> str:
    """The text with some words replaced; all else stays as it is.

    Args:
        text: the text.
        replacements: words of it in order, each with what takes its place.
        cased: whether a capitalised word's replacement is capitalised too.

    Examples:
        >>> replace_words("A  Fine day!", [(Word(3, 7, "Fine"), "sunny")])
        'A  Sunny day!'
    """
    parts, last = [], 0
    for word, new in replacements:
        parts += [text[last : word.start], _cased_like(word.text, new) if cased else new]
        last = word.end
    return "".join([*parts, text[last:]])


def normalise(text: str) -> str:
    """The text in lower case, with single spaces: what two texts that are the same share."""
    return " ".join(text.lower().split())


def key(texts: Sequence[str]) -> str:
    """What two examples share that are the same after `normalise`, in either order of a pair.

    Examples:
        >>> key(["One.", "two"]) == key(["Two", " one. "])
        True
    """
    return "\x1f".join(sorted(map(normalise, texts)))


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(_BETWEEN)
    return not before or before[-1] in _SENTENCE_END


def _cased_like(word: str, new: str) -> str:
    if len(word) > 1 and word.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if word[0].isupper() else new


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
