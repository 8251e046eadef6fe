"""Whose classes are whose: the classes of a model and those of a task, by their names."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.errors import UserError


def class_order(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Where in `names` each of `wanted` stands; None if the two are other classes.

    Case, spaces and punctuation are not compared, unless classes differ in nothing else, as -1
    and 1 do. Names such as LABEL_0, or 0, say nothing: they are taken for the wanted ones by their
    numbers.

    Args:
        names: of a model's classes, by index.
        wanted: names of a task's classes, by index.

    Examples:
        >>> class_order(("Contradiction", "Entailment"), ("entailment", "contradiction"))
        (1, 0)
        >>> class_order(("LABEL_0", "LABEL_1"), ("bad", "good"))
        (0, 1)
        >>> class_order(("1", "-1"), ("-1", "1"))
        (1, 0)
        >>> class_order(("cat", "dog"), ("bad", "good")) is None
        True
    """
    numbers = [*map(str, range(len(wanted)))]
    for goals in (wanted, numbers, [f"label{number}" for number in numbers]):
        for form in (str.strip, _bare):
            ours, goal = [*map(form, names)], [*map(form, goals)]
            if sorted(ours) == sorted(goal) and len(set(ours)) == len(ours):
                return tuple(map(ours.index, goal))
    return None


def find_order(
    names: Sequence[str], wanted: Sequence[str], model: str, task: str
) -> tuple[int, ...]:
    """`class_order` of a model's classes and a task's.

    Args:
        names: see `class_order`.
        wanted: see `class_order`.
        model: what messages call the model.
        task: what messages call the task.

    Raises:
        UserError: the two are other classes.
    """
    order = class_order(names, wanted)
    if order is None:
        raise UserError(
            f"{model}: its classes are {listed(names)}, and those of {task} are {listed(wanted)}; "
            "which is which cannot be told, give them these names in id2label of its config.json"
        )
    return order


def listed(names: Sequence[str]) -> str:
    """Names of classes for a message, of bounded length."""
    text = ", ".join(names)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
