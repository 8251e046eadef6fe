"""`bebert serve`: answer HTTP requests with a finished model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bebert_ray.cli.common import consoles, count, make_parser

DESCRIPTION = """\
Serve a finished model over HTTP, with Ray Serve, on this machine or on the cluster that
RAY_ADDRESS names. Needs `pip install 'bebert_ray[serve]'`.

  POST / or /predict   {"text": "…"}, {"text": "…", "text_pair": "…"}, or a list of such rows
                       answers {"label": …, "probabilities": {…}}, or {"score": …}, of each row
  GET /health          200 if there is a replica that answers, else 503

When it is ready, it prints a line of JSON with the URL to stdout. SIGTERM and SIGINT (Ctrl-C) end
it: requests that are there are answered first. There is no access control: others than the users
of this machine reach it only where --host, or a proxy before it, lets them.
exit code: 0 ended by a signal, 1 the replicas do not start, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert serve runs/mrpc/model
  bebert serve runs/mrpc/model --port 9000 --min-replicas 2 --max-replicas 8
  curl localhost:8000 -d '{"text": "It rains.", "text_pair": "Rain falls."}'"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Serve until a signal comes."""
    parser, flags = _parse(arguments, prog)
    _, progress = consoles(flags)
    fewest, most = flags.min_replicas, flags.max_replicas
    if flags.replicas is not None:
        if fewest is not None or most is not None:
            parser.error("give --replicas, or --min-replicas and --max-replicas")
        fewest = most = flags.replicas
    fewest = fewest or 1
    if most is not None and most < fewest:
        parser.error(f"--max-replicas {most} is less than --min-replicas {fewest}")

    try:
        # Only now: --help should not wait for torch and Ray.
        from bebert_ray.serving.run import Service, serve

        size, cascade = flags.batch_size, flags.cascade
        serve(Service(flags.model, flags.host, flags.port, fewest, most, size, cascade), progress)
    except KeyboardInterrupt:  # a signal before it was ready
        pass
    progress.print("ended")


def _parse(
    arguments: Sequence[str] | None, prog: str | None
) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    add = parser.add_argument
    add(
        "model",
        metavar="DIR",
        help="a path or URI, as model/ of a run; any sequence classifier of transformers will do",
    )
    add(
        "--host",
        metavar="NAME",
        default="127.0.0.1",
        help="name or address to listen on (default: %(default)s, this machine alone)",
    )
    add(
        "--port",
        metavar="N",
        type=_port,
        default=8000,
        help="0 for any that is free (default: %(default)s)",
    )
    add("--replicas", metavar="N", type=count, help="processes with the model, a fixed number")
    add("--min-replicas", metavar="N", type=count, help="the fewest (default: 1)")
    add(
        "--max-replicas",
        metavar="N",
        type=count,
        help="the most, as requests come (default: one a GPU, or one a CPU if there is none)",
    )
    add(
        "--batch-size",
        metavar="N",
        type=count,
        default=32,
        help="most rows in a forward pass (default: %(default)s)",
    )
    add(
        "--cascade",
        action="store_true",
        help="ask a member only where those before it are unsure: faster, and nearly the same",
    )
    return parser, parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number below 65536")
    return int(text)
