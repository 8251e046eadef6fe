"""The suites: what is disturbed, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bebert_ray.errors import UserError, closest

Kind = Literal["text", "embeddings", "bits", "file"]
"""What a suite disturbs: the texts, the word embeddings, the packed weights; a file has its own
texts."""


@dataclass(frozen=True)
class Suite:
    """A kind of disturbance.

    Attributes:
        name: of the suite.
        kind: what is disturbed.
        unit: what the strength is.
        strengths: rising, above 0.
    """

    name: str
    kind: Kind
    unit: str
    strengths: tuple[float, ...]


_ALL = (
    Suite("typos", "text", "share of words with a typing error", (0.05, 0.1, 0.2, 0.4)),
    Suite("replace", "text", "probability that a word is replaced", (0.1, 0.2, 0.4, 0.8)),
    Suite("delete", "text", "probability that a word is left out", (0.05, 0.1, 0.2, 0.4)),
    Suite("order", "text", "probability that a word swaps with the next", (0.1, 0.2, 0.4, 0.8)),
    Suite("case", "text", "share of letters in the other case", (0.1, 0.2, 0.4)),
    Suite("unicode", "text", "share of letters replaced by lookalikes", (0.02, 0.05, 0.1, 0.2)),
    Suite("truncate", "text", "share of words cut off", (0.1, 0.25, 0.5, 0.75)),
    Suite("embeddings", "embeddings", "noise, of a word embedding's length", (0.1, 0.2, 0.4, 0.8)),
    Suite("bits", "bits", "share of packed weights that flip", (0.0003, 0.001, 0.003, 0.01)),
)
SUITES = {suite.name: suite for suite in _ALL}
"""All suites but files, by name."""


def parse_suites(texts: Sequence[str]) -> list[Suite]:
    """The suites that are asked for.

    Args:
        texts: names, each perhaps with strengths, as `typos` or `typos=0.1,0.3`; none: all.

    Raises:
        UserError: a suite or a strength does not exist.

    Examples:
        >>> [(suite.name, suite.strengths) for suite in parse_suites(["bits=0.01,0.001"])]
        [('bits', (0.001, 0.01))]
    """
    if not texts:
        return list(SUITES.values())
    found: dict[str, Suite] = {}
    for text in texts:
        name, equals, strengths = text.partition("=")
        suite = SUITES.get(name.strip())
        if suite is None:
            close = closest(name.strip().lower(), SUITES)
            hint = f"; did you mean {close}?" if close else "."
            raise UserError(
                f"--suite {text[:60]}: there is no such suite{hint} There are {', '.join(SUITES)}"
            )
        given = _strengths(text, strengths, suite) if equals else suite.strengths
        before = found[suite.name].strengths if suite.name in found else ()
        found[suite.name] = replace(suite, strengths=tuple(sorted({*before, *given})))
    return list(found.values())


def _strengths(text: str, given: str, suite: Suite) -> tuple[float, ...]:
    most = float("inf") if suite.kind == "embeddings" else 1.0
    try:
        values = tuple(sorted({float(part) for part in given.split(",")}))
        if not 0 < values[0] <= values[-1] <= most or values[-1] == float("inf"):
            raise ValueError
    except ValueError:
        limit = "" if most > 1 else " and at most 1"
        raise UserError(
            f"--suite {text[:60]}: a strength is a number above 0{limit} ({suite.unit}); give such "
            f"as --suite {suite.name}={','.join(f'{value:g}' for value in suite.strengths)}"
        ) from None
    return values
