"""The command `bebert`: one word says what to do, and each has its own `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from bebert_ray.cli.common import run_job
from bebert_ray.reporting.console import print_anything
from bebert_ray.version import __version__

COMMANDS = {
    "train": ("train", "train an ensemble of binary BERTs, and evaluate it"),
    "sweep": ("sweep", "search for the best ensemble: learning rates, boosting, size"),
    "predict": ("predict", "score files of texts with a finished model"),
    "serve": ("serve", "answer HTTP requests with a finished model"),
    "status": ("status", "show where a run stands, also while it runs"),
    "robustness": (
        "robustness",
        "measure a finished run under typing errors, noise, bit errors and the like",
    ),
    "report": ("report", "print the results of a finished run, and write its report again"),
    "inspect": ("inspect_model", "show what a model costs: bytes, operations, layer by layer"),
    "export": ("export", "write a packed model as ONNX"),
}
"""By name: the module in `bebert_ray.cli`, and what the command does."""

USAGE = """\
usage: bebert COMMAND [options] [key.sub=value …]
       bebert COMMAND --help
       bebert --version

Ensembles of binary BERTs: trained in parallel on Ray, boosted into one small model.

commands:
{commands}

options of all commands:
  -q, --quiet     print the last line and errors alone
  -v, --verbose   print debug messages, those of Ray too

a first run, on the built-in demo task:
  bebert train --config quickstart"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the process by default.

    Returns:
        The exit code, see `common.run_job`; 2 for a command that does not exist.
    """
    print_anything()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] == "--version":
        print(f"bebert_ray {__version__}")
        return 0
    usage = USAGE.format(
        commands="\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    )
    early = []  # flags that stand before the command
    while given and given[0] in ("-q", "--quiet", "-v", "--verbose"):
        early.append(given.pop(0))
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage)
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        print(usage, file=sys.stderr)
        print(f"error: there is no command {name[:40]!r}", file=sys.stderr)
        return 2
    command = import_module(f"bebert_ray.cli.{COMMANDS[name][0]}")
    return run_job(lambda: command.main([*early, *rest], f"bebert {name}"))
