"""The ways a job can end badly, and the exit code of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: the message says what was wrong, where, and what to do. Jobs exit with 2."""

    exit_code = 2


class RunError(Exception):
    """A run that had started and failed: the message names the step. Jobs exit with 1."""

    exit_code = 1


class Diverged(RunError):
    """A training came to NaN or infinity; with the same settings it will again."""


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Within the block work has begun: a `UserError`, such as of a full disk, is a `RunError`.

    Args:
        what: the step or file that fails then.

    Raises:
        RunError: in place of a UserError.
    """
    try:
        yield
    except UserError as error:
        raise RunError(f"{what} failed: {error}") from error


def closest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is spelled most like another, for "did you mean"; None if none is.

    Args:
        name: what was given.
        known: the names that there are.
        cutoff: least likeness, 0 to 1, see `difflib.get_close_matches`.

    Examples:
        >>> closest("mrcp", ["mrpc", "cola"])
        'mrpc'
    """
    if len(name) > 100:  # looking would take long
        return None
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
