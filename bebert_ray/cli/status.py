"""`bebert status`, and `jobs/status.py`: show where a run stands, also while it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from bebert_ray.cli.common import consoles, make_parser

DESCRIPTION = """\
Show where a run stands: each step, the whole, and the time left if a guess can be made.

Nothing is changed, and a run at work is not disturbed. Whether what is done is whole, and made from
the present configuration, is not checked: for that, give the run's own command with --dry-run.
exit code: 0 shown, 2 there is no such run"""

EXAMPLES = """\
  bebert status runs/mrpc
  bebert status s3://bucket/runs/mrpc --json
  watch -n 10 bebert status runs/mrpc"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Look, and print."""
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    parser.add_argument("run", metavar="RUN", help="run directory: a path, or a URI such as s3://…")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(arguments)
    out, _ = consoles(flags)

    from bebert_ray.reporting.status import look
    from bebert_ray.reporting.tables import print_status
    from bebert_ray.storage import Location

    status = look(Location.parse(flags.run))
    if flags.json:
        print(json.dumps(asdict(status)), flush=True)
    else:
        print_status(status, out)
