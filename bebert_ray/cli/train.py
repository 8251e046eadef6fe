"""`bebert train`, and `jobs/ensemble.py`: train and evaluate an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.cli.common import consoles, parse_config
from bebert_ray.cluster.cpus import check_cpus
from bebert_ray.config import describe, load_config

DESCRIPTION = """\
Train an ensemble of binary BERTs on a GLUE task, or on your own data, and evaluate it.

Runs on this machine, or, as a Ray job, on the cluster it was submitted to. Everything is kept in
the run directory (`output`): give the same command again, and what is complete is not redone.
The last line of stdout is one JSON object with the figures.
exit code: 0 done, 1 the run failed, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert train --config quickstart
  bebert train --config mrpc data.path=GLUE ensemble.members=2
  bebert train task=custom data.path=reviews.csv data.text_columns=[review] data.label_column=stars
  ray job submit --working-dir . -- python jobs/ensemble.py --config mrpc \\
      data.path=/shared/glue output=/shared/runs/mrpc"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Check the input, show the plan, do the work, show the results."""
    config, flags = parse_config(load_config, describe, DESCRIPTION, EXAMPLES, arguments, prog)
    check_cpus(config.resources.num_cpus)

    # Only now: --help and a mistyped key should not wait for torch and Ray.
    from bebert_ray.pipeline.layout import REPORT, RESULTS
    from bebert_ray.pipeline.results import to_json
    from bebert_ray.reporting.tables import print_table
    from bebert_ray.run import train

    out, progress = consoles(flags)
    results = train(config, out, progress, dry_run=flags.dry_run)
    if results is not None:
        print_table(results, out)
        out.print(f"all figures: {results.run}/{RESULTS}, report: {results.run}/{REPORT}")
        print(to_json(results.summary()), flush=True)
