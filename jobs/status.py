"""Show where a run stands, also while it runs; `python jobs/status.py --help` tells more."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from bebert_ray.cli.common import console, run_job
from bebert_ray.reporting.status import look
from bebert_ray.reporting.tables import print_status
from bebert_ray.storage import Location

DESCRIPTION = """\
Show where a run stands: each step, the whole, and the time left if a guess can be made.

Nothing is changed, and a run at work is not disturbed. Whether what is done is whole, and made from
the present configuration, is not checked: for that, give the run's own command with --dry-run.
exit code: 0 shown, 2 there is no such run"""

EXAMPLES = """\
examples:
  python jobs/status.py runs/mrpc
  python jobs/status.py s3://bucket/runs/mrpc --json
  watch -n 10 python jobs/status.py runs/mrpc"""


def main(arguments: list[str] | None = None) -> None:
    """Look, and print."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run directory: a path, or a URI such as s3://…")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    flags = parser.parse_args(arguments)
    status = look(Location.parse(flags.run))
    if flags.json:
        print(json.dumps(asdict(status)), flush=True)
    else:
        print_status(status, console())


if __name__ == "__main__":
    sys.exit(run_job(main))
