"""Where things are printed."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from rich.console import Console


def print_anything() -> None:
    """Have stdout and stderr show "?" for what their encoding cannot: better than an end.

    Names of files may hold any bytes, and a terminal or a log may take ASCII alone.
    """
    for file in (sys.stdout, sys.stderr):
        if reconfigure := getattr(file, "reconfigure", None):
            reconfigure(errors="replace")


class _Progress(Console):
    """Progress that nobody can read any more, of a closed pipe or on a full disk, is left out.

    The work that it tells of goes on.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: a path may hold brackets.

    Tables have 120 columns where the output is no terminal, so that a log does not squeeze them.

    Args:
        stderr: print there, and not to stdout.
        quiet: print nothing.
    """
    print_anything()
    file = sys.stderr if stderr else sys.stdout
    return (_Progress if stderr else Console)(
        file=file,
        quiet=quiet,
        width=None if file.isatty() else 120,
        soft_wrap=True,
        markup=False,
        emoji=False,
        highlight=False,
    )
