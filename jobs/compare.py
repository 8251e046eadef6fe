"""Compare finished runs; `python jobs/compare.py --help` tells more."""

from __future__ import annotations

import argparse
import json
import sys

from bebert_ray.cli.common import console, count, local_path, run_job
from bebert_ray.storage import Location, write_atomic

DESCRIPTION = """\
Compare finished runs, from the results.json in their directories alone.

Runs of one configuration that differ in the seed make a group, named by the settings that tell the
groups apart. For each group and each seed: scores of the stages, of the model that members start
from, of the mean member and of ensembles of 1, 2, 4, ... members, on the reported split; sizes and
seconds; and what the ensemble gains over its mean member, over each other model of its run (stages,
split checkpoint, baselines of equal cost) and over the mean member of the first group, with the
95 % interval and the p-value of a paired bootstrap over examples and seeds.
exit code: 0 shown, 2 a run is not finished, or the runs are of different tasks or data"""

EXAMPLES = """\
examples:
  python jobs/compare.py runs/mrpc
  python jobs/compare.py runs/kinds/seed-*/1-1-* --picture pareto.png
  python jobs/compare.py s3://bucket/runs/mrpc-1 s3://bucket/runs/mrpc-2 --json"""


def main(arguments: list[str] | None = None) -> None:
    """Read the results, compare, print."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directory: a path, or a URI")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--picture", metavar="FILE", type=local_path, help="draw scores over sizes into a PNG file"
    )
    parser.add_argument(
        "--resamples", type=count, default=2000, help="of the bootstrap (default: 2000)"
    )
    flags = parser.parse_args(arguments)

    # Only now: --help should not wait for NumPy and matplotlib.
    from measure.comparison import group_runs, print_comparison, summary
    from measure.pareto import draw_pareto

    from bebert_ray.reporting.report import load_results

    groups = group_runs([load_results(Location.parse(run)) for run in flags.runs])
    if flags.picture:
        write_atomic(flags.picture.absolute(), draw_pareto(groups))
    if flags.json:
        print(json.dumps(summary(groups, flags.resamples), allow_nan=False), flush=True)
    else:
        print_comparison(groups, console(), flags.resamples)


if __name__ == "__main__":
    sys.exit(run_job(main))
