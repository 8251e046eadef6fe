"""What all jobs share: their command line, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bebert_ray.config import Config, describe, load_config
from bebert_ray.errors import RunError, UserError


def run_job(job: Callable[[], None]) -> int:
    """Run `job` and return its exit code: 0, 1 for a run that failed, 2 for bad input.

    Only a mistake of ours shows a traceback.
    """
    try:
        job()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return 130
    return 0


def parse_arguments(
    description: str, examples: str, arguments: list[str] | None = None
) -> tuple[Config, argparse.Namespace]:
    """The configuration that the command line asks for, and its flags.

    Raises:
        UserError: the configuration is not valid.
        SystemExit: as argparse does, with code 2 for a wrong flag.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}\n\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as configs/mrpc.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="set a key")
    parser.add_argument("--dry-run", action="store_true", help="check, show the plan, and stop")
    namespace = parser.parse_intermixed_args(arguments)
    if namespace.config is None and not namespace.overrides:
        parser.error("give --config FILE or task=NAME; --help shows all keys")
    return load_config(namespace.config, namespace.overrides), namespace
