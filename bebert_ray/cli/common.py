"""What all commands share: their flags, where they print, and how they end."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGTERM
from types import FrameType
from typing import TextIO, TypeVar

from rich.console import Console

from bebert_ray.errors import RunError, UserError
from bebert_ray.paths import ensure_home, expand
from bebert_ray.reporting.console import console, print_anything

T = TypeVar("T")


def run_job(job: Callable[[], None]) -> int:
    """Run a command. SIGINT (Ctrl-C) and SIGTERM end it in good order.

    Bad input and failed runs print one message to stderr. Only an error of bebert_ray itself shows
    a traceback.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for bad input, 128 + n for signal n.
    """
    print_anything()
    ensure_home()
    received: list[int] = []  # Ray raises a KeyboardInterrupt of its own in place of ours

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        job()
    except (UserError, RunError) as error:
        _tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted; give the same command again to go on")
        return 128 + received[0]
    except OSError as error:
        if not _drop_stdout():
            raise
        if not isinstance(error, BrokenPipeError):  # `| head` has read what it wanted
            _tell(f"error: cannot write to stdout: {error.strerror}")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _drop_stderr()
    return 0


def _tell(text: str) -> None:
    with suppress(OSError):  # stderr may be what is gone
        print(text, file=sys.stderr, flush=True)


def _drop_stdout() -> bool:
    """Whether stdout cannot be written to; if so, what it still holds is lost without an error."""
    try:
        print(flush=True)  # a line, since what could not be written may be gone
    except OSError:
        _drop(sys.stdout)
        return True
    return False


def _drop_stderr() -> None:
    """Lose what stderr holds if it cannot be written: else Python would exit with 120 for it."""
    if sys.stderr is None:  # `2>&-`: there is none
        return
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def _drop(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_parser(
    description: str, examples: str, prog: str | None = None
) -> argparse.ArgumentParser:
    """A parser with the flags of every command, whose help keeps its line breaks."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q", "--quiet", action="store_true", help="print the last line and errors alone"
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", help="print debug messages, those of Ray too"
    )
    return parser


def consoles(flags: argparse.Namespace) -> tuple[Console, Console]:
    """Where a command prints its output, and its progress; both follow `-q` and `-v`."""
    if flags.verbose:
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
        logging.getLogger("bebert_ray").setLevel(logging.DEBUG)
    return console(quiet=flags.quiet), console(stderr=True, quiet=flags.quiet)


def local_path(text: str) -> Path:
    """A path of the local disk, as an argument's type: `~` is the home directory.

    Raises:
        UserError: see `paths.expand`.
    """
    return Path(expand(text))


def count(text: str) -> int:
    """A whole number above 0, as an argument's type.

    Raises:
        argparse.ArgumentTypeError: the text is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def parse_config(
    load: Callable[[str | None, list[str]], T],
    keys: Callable[[], str],
    description: str,
    examples: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> tuple[T, argparse.Namespace]:
    """The configuration that a command line asks for, and its flags.

    Args:
        load: makes a configuration of a file and overrides.
        keys: describes every key, for `--help`.
        description: what the command does.
        examples: command lines.
        arguments: those of the process by default.
        prog: name of the command.

    Raises:
        UserError: the configuration is not valid.
        SystemExit: as argparse does, with code 2 for a wrong flag.
    """
    parser = make_parser(description, f"{examples}\n\n{keys()}", prog)
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="YAML file, or the name of one that is shipped: quickstart, mrpc, sst2, …",
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="set a key")
    parser.add_argument("--dry-run", action="store_true", help="check, show the plan, and stop")
    flags = parser.parse_intermixed_args(arguments)
    files = flags.config or []
    if len(files) > 1:
        parser.error(f"--config is given {len(files)} times; give it once, and keys to change")
    if not files and not flags.overrides:
        parser.error("give --config FILE or task=NAME; --help shows all keys")
    return load(files[0] if files else None, flags.overrides), flags
