"""`bebert report`: print the results of a finished run, and write its report again."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.cli.common import consoles, make_parser

DESCRIPTION = """\
Print the results of a finished run, and write report.html and scores.png in its directory again,
from what the directory holds: neither the data nor the models are needed.
The last line of stdout is one JSON object with the figures.
exit code: 0 done, 2 there is no finished run"""

EXAMPLES = """\
  bebert report runs/mrpc"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Read the results, write the report, and print."""
    parser = make_parser(DESCRIPTION, EXAMPLES, prog)
    parser.add_argument("run", metavar="RUN", help="run directory: a path, or a URI such as s3://…")
    flags = parser.parse_args(arguments)
    out, _ = consoles(flags)

    from bebert_ray.pipeline.results import to_json
    from bebert_ray.reporting.report import write_report
    from bebert_ray.storage import Location

    results = write_report(Location.parse(flags.run), out)
    print(to_json(results.summary()), flush=True)
