"""Measure what the project promises; `python jobs/benchmark.py --help` tells more."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bebert_ray.cli.common import count, local_path, run_job
from bebert_ray.reporting.console import console

DESCRIPTION = """\
Measure what the project promises; the last line of stdout is one JSON object.

train      a training step of a binary member beside one of transformers' own BERT
control    what the driver costs, by the number of members; these train nothing
schedules  the same members trained one after another, pipelined, as bagging: seconds and scores
kinds      members of each width in bits, from 1-1-8 to 1-1-1: scores, sizes, bit operations
alphas     the search for alphas on made-up logits: evaluations in a second
infer      packed models in each engine beside the full-precision model: milliseconds, memory
serve      `bebert serve` under load, with a replica killed: answers lost or wrong, milliseconds

exit code: 0 done, 1 a run failed, 2 something in the input is wrong"""

EXAMPLES = """\
examples:
  python jobs/benchmark.py train --steps 20
  python jobs/benchmark.py control --members 2 16 64 256
  python jobs/benchmark.py schedules --config configs/mrpc.yaml data.path=GLUE --seeds 1 2 3
  python jobs/benchmark.py kinds --config configs/quickstart.yaml ensemble.members=4
  python jobs/benchmark.py alphas --members 4 --examples 408
  python jobs/benchmark.py infer --kinds 1-1-4 --threads 1 --repeat 20
  python jobs/benchmark.py serve --model runs/quickstart/model --replicas 2
  python jobs/benchmark.py schedules --help"""

# As in the modules that do the work, which import torch.
SCHEDULES = ["sequential", "sequential-all-cpus", "pipelined", "parallel"]
KINDS = ["1-1-8", "1-1-4", "1-1-2", "1-1-1-bibert", "1-1-1-bit", "1-1-1-bit-through-2"]


def train(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """A training step."""
    parser.add_argument("--steps", type=int, default=20, help="measured steps (default: 20)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before these (default: 3)")
    parser.add_argument("--bits", choices=["1-1-8", "1-1-4", "1-1-1"], default="1-1-4")
    flags = parser.parse_args(arguments)

    from measure.train import train

    result = train(flags.steps, flags.warmup, flags.bits)
    for name, milliseconds in result["step_ms"].items():
        print(f"{name:>22}: {milliseconds:8.1f} ms a step")
    return result


def control(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The driver's cost."""
    parser.add_argument(
        "--members", type=int, nargs="+", default=[2, 16, 64, 256], help="default: 2 16 64 256"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each member (default: 3)")
    parser.add_argument("--output", type=local_path, help="new directory (default: temporary)")
    flags = parser.parse_args(arguments)
    output = flags.output or Path(tempfile.mkdtemp(prefix="control-"))

    from measure.control import control, print_rows

    result = control(flags.members, flags.rounds, output)
    print_rows(result["rows"], console())
    print(f"picture: {result['picture']}")
    return result


def schedules(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """Seconds and scores under each schedule."""
    parser.add_argument(
        "--repeat", type=int, default=1, help="trainings of the members under each (default: 1)"
    )
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    flags, load, tell = _runs(parser, arguments)

    from measure.runs import print_schedules, schedules, schedules_summary

    outcomes = schedules(load, flags.schedules, flags.seeds, flags.repeat, flags.output, tell)
    print_schedules(outcomes, console())
    return schedules_summary(outcomes)


def kinds(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """Scores and costs of each kind of member."""
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    flags, load, tell = _runs(parser, arguments)

    from measure.runs import kinds, kinds_summary, print_kinds

    made = kinds(load, flags.kinds, flags.seeds, flags.output, tell)
    print_kinds(made, console())
    return kinds_summary(made)


def alphas(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The speed of the search for alphas."""
    parser.add_argument("--members", type=count, default=4, help="default: 4")
    parser.add_argument("--examples", type=count, default=408, help="default: 408, as MRPC's dev")
    parser.add_argument("--repeat", type=count, default=5, help="searches (default: 5)")
    flags = parser.parse_args(arguments)

    from measure.alphas import alphas, print_rows

    result = alphas(flags.members, flags.examples, flags.repeat)
    print_rows(result["rows"], console())
    return result


def infer(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The speed of packed models."""
    default = [1, os.cpu_count() or 1]
    parser.add_argument("--kinds", nargs="+", default=["1-1-8", "1-1-4", "1-1-1"], metavar="W-E-A")
    parser.add_argument("--members", type=count, default=2, help="default: 2")
    parser.add_argument("--model", default="bundled", help="the encoder (default: bundled)")
    parser.add_argument(
        "--threads", type=count, nargs="+", default=default, help="default: 1, and all"
    )
    parser.add_argument(
        "--repeat", type=count, default=10, help="turns of each shape (default: 10)"
    )
    parser.add_argument(
        "--output", type=local_path, default=Path("runs/infer"), help="directory of the picture"
    )
    flags = parser.parse_args(arguments)

    from bebert_ray.config.bits import Bits

    try:
        for kind in flags.kinds:
            Bits.parse(kind)
    except ValueError as error:
        parser.error(str(error))

    from measure.infer import infer, print_rows

    threads = sorted(set(flags.threads))
    result = infer(flags.kinds, flags.members, flags.model, flags.repeat, threads, flags.output)
    print_rows(result["rows"], console())
    print(f"picture: {result['picture']}")
    return result


def serve(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """The service under load."""
    add = parser.add_argument
    add("--model", required=True, help="a path or URI of a classifier, as model/ of a run")
    add("--requests", type=count, default=10_000, help="default: 10000")
    add("--clients", type=count, default=32, help="who send at once (default: 32)")
    add("--rate", type=_rate, help="requests a second (default: as fast as they are answered)")
    add("--replicas", type=count, default=2, help="default: 2")
    add("--no-kill", action="store_true", help="kill no replica")
    flags = parser.parse_args(arguments)

    from measure.serve import print_figures, serve

    kill, rate = not flags.no_kill, flags.rate
    result = serve(flags.model, flags.requests, flags.clients, rate, flags.replicas, kill)
    print_figures(result, console())
    return result


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def _runs(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace, Callable[..., Any], Callable[[str], None]]:
    """The flags of a benchmark of whole runs, its configurations, and where it prints progress."""
    what = parser.prog.split()[-1]
    parser.add_argument("--config", metavar="FILE", help="YAML file, such as configs/mrpc.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="set a key")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="default: 42")
    parser.add_argument(
        "--output",
        type=local_path,
        default=Path("runs") / what,
        help=f"directory; the stages in it are used again (default: runs/{what})",
    )
    flags = parser.parse_intermixed_args(arguments)

    from bebert_ray.config import load_config

    def load(*more: str) -> Any:
        return load_config(flags.config, [*flags.overrides, "export.remainder=none", *more])

    return flags, load, partial(print, file=sys.stderr, flush=True)


BENCHMARKS: dict[str, Callable[[argparse.ArgumentParser, list[str]], dict[str, Any]]] = {
    "train": train,
    "control": control,
    "schedules": schedules,
    "kinds": kinds,
    "alphas": alphas,
    "infer": infer,
    "serve": serve,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=list(BENCHMARKS))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options of its own: WHAT --help")
    flags = parser.parse_args(arguments)
    own = argparse.ArgumentParser(prog=f"{parser.prog} {flags.what}")
    print(json.dumps(BENCHMARKS[flags.what](own, flags.rest)), flush=True)


if __name__ == "__main__":
    sys.exit(run_job(main))
