"""The ways a job can end badly, and the exit code of each."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message says what was wrong, where, and what to do. Jobs exit with 2."""

    exit_code = 2


class RunError(Exception):
    """A run that had started and failed: the message names the step. Jobs exit with 1."""

    exit_code = 1


class Diverged(RunError):
    """A training came to NaN or infinity; with the same settings it will again."""
