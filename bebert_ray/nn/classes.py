"""Whose classes are whose: the classes of a model and those of a task, by their names."""

from __future__ import annotations

from collections.abc import Sequence


def class_order(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Where in `names` each of `wanted` stands; None if the two are other classes.

    Case, spaces and signs are not compared. Names such as LABEL_0, or 0, say nothing: they are
    taken for the wanted ones by their numbers.

    Args:
        names: of a model's classes, by index.
        wanted: names of a task's classes, by index.

    Examples:
        >>> class_order(("Contradiction", "Entailment"), ("entailment", "contradiction"))
        (1, 0)
        >>> class_order(("LABEL_0", "LABEL_1"), ("bad", "good"))
        (0, 1)
        >>> class_order(("cat", "dog"), ("bad", "good")) is None
        True
    """
    bare, numbers = [*map(_bare, names)], [*map(str, range(len(wanted)))]
    for goal in ([*map(_bare, wanted)], numbers, [f"label{number}" for number in numbers]):
        if sorted(bare) == sorted(goal):
            return tuple(map(bare.index, goal))
    return None


def listed(names: Sequence[str]) -> str:
    """Names of classes for a message, of bounded length."""
    text = ", ".join(names)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
