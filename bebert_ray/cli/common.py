"""What all jobs share: their command line, where they print, and how they end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from signal import SIGINT, SIGTERM
from types import FrameType
from typing import TypeVar

from rich.console import Console

from bebert_ray.config import Config, describe, load_config
from bebert_ray.errors import RunError, UserError

T = TypeVar("T")


def run_job(job: Callable[[], None]) -> int:
    """Run `job`, which SIGINT (Ctrl-C) and SIGTERM end in good order, and tell how it ended.

    Only a mistake of ours shows a traceback.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for bad input, 128 + n for signal n.
    """
    received: list[int] = []  # Ray raises a KeyboardInterrupt of its own in place of ours

    def interrupt(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        job()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return 128 + received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def parse_arguments(
    description: str, examples: str, arguments: list[str] | None = None
) -> tuple[Config, argparse.Namespace]:
    """The run that the command line asks for, and its flags; see `parse_with`."""
    return parse_with(load_config, describe, description, examples, arguments)


def parse_with(
    load: Callable[[str | None, list[str]], T],
    keys: Callable[[], str],
    description: str,
    examples: str,
    arguments: list[str] | None = None,
) -> tuple[T, argparse.Namespace]:
    """What the command line asks for, and its flags.

    Args:
        load: makes a configuration of a file and overrides.
        keys: describes what may be set.
        description: what the job does.
        examples: command lines.
        arguments: those of the process by default.

    Raises:
        UserError: the configuration is not valid.
        SystemExit: as argparse does, with code 2 for a wrong flag.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}\n\n{keys()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as configs/mrpc.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="set a key")
    parser.add_argument("--dry-run", action="store_true", help="check, show the plan, and stop")
    namespace = parser.parse_intermixed_args(arguments)
    if namespace.config is None and not namespace.overrides:
        parser.error("give --config FILE or task=NAME; --help shows all keys")
    return load(namespace.config, namespace.overrides), namespace


def console(*, stderr: bool = False) -> Console:
    """Prints text as it is (a path may hold brackets), and tables that a log does not squeeze."""
    file = sys.stderr if stderr else sys.stdout
    return Console(
        file=file,
        width=None if file.isatty() else 120,
        soft_wrap=True,
        markup=False,
        emoji=False,
        highlight=False,
    )
