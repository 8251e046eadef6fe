"""Train and evaluate an ensemble of binary BERTs; `python jobs/ensemble.py --help` tells more."""

from __future__ import annotations

import sys

from bebert_ray.cli.common import console, parse_arguments, run_job

DESCRIPTION = """\
Train an ensemble of binary BERTs on a GLUE task, or on your own data, and evaluate it.

Runs on this machine, or, as a Ray job, on the cluster it was submitted to. Everything is kept in
the run directory (`output`): give the same command again, and what is complete is not redone.
The last line of stdout is one JSON object with the figures.
exit code: 0 done, 1 the run failed, 2 something in the input is wrong"""

EXAMPLES = """\
  python jobs/ensemble.py --config configs/quickstart.yaml
  python jobs/ensemble.py --config configs/mrpc.yaml data.path=GLUE ensemble.members=2
  python jobs/ensemble.py task=custom data.path=reviews.csv data.text_columns=[review] \\
      data.label_column=stars
  ray job submit --working-dir . -- python jobs/ensemble.py --config configs/mrpc.yaml \\
      data.path=/shared/glue output=/shared/runs/mrpc"""


def main(arguments: list[str] | None = None) -> None:
    """Check the input, show the plan, do the work, show the results."""
    config, flags = parse_arguments(DESCRIPTION, EXAMPLES, arguments)

    # Only now: --help and a mistyped key should not wait for torch and Ray.
    from bebert_ray.cluster.pool import Crew
    from bebert_ray.cluster.resources import allot, connected
    from bebert_ray.config import to_yaml
    from bebert_ray.pipeline.driver import Run, make_plan, results
    from bebert_ray.pipeline.prepare import open_run, prepare
    from bebert_ray.pipeline.results import to_json
    from bebert_ray.reporting.progress import Board
    from bebert_ray.reporting.report import draw_report
    from bebert_ray.reporting.tables import print_plan, print_table
    from bebert_ray.storage import keep, lock

    out = console()
    prepared = prepare(config)
    directory, layout = prepared.directory, prepared.layout
    out.print(to_yaml(config))
    with connected(config.resources) as nodes:
        allotments = allot(config, nodes)
        print_plan(make_plan(prepared), allotments, nodes, directory, out)
        if flags.dry_run:
            return
        with lock(directory):
            splits = open_run(prepared)
            with Board(directory, console(stderr=True)) as board:
                crew = Crew(prepared, splits, allotments, board)
                run = Run(prepared, splits, crew.report)
                crew.do(run)
            figures = results(run)
            text = to_json(figures.everything(), indent=2)
            if not keep(layout.results, text.encode()) and not crew.taken:
                out.print("results.json was not what the run's artifacts say; written anew")
            draw_report(figures, directory)
    print_table(figures, out)
    out.print(f"all figures: {layout.results}, report: {layout.report}")
    print(to_json(figures.summary()), flush=True)


if __name__ == "__main__":
    sys.exit(run_job(main))
