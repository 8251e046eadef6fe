"""Search for the best ensemble; `python jobs/sweep.py --help` tells more."""

from __future__ import annotations

import sys

from bebert_ray.cli.common import console, parse_with, run_job
from bebert_ray.config.check import describe
from bebert_ray.errors import RunError
from bebert_ray.sweep.settings import SWEEP, load_sweep

DESCRIPTION = """\
Search for the best ensemble: train many, each from the same stages, which are made once.

The configuration is that of jobs/ensemble.py and says what a trial is; sweep.space says what trials
differ in, by key of the section ensemble or member:
  sweep.space.KEY: {uniform|loguniform|randint: [low, high]}, {quniform: [low, high, step]},
  {choice: [value, ...]}; for settings that only fit together, KEY is a section:
  sweep.space.ensemble: {choice: [{method: bagging}, {method: boosting, schedule: pipelined}]}
Ray Tune runs as many trials at once as there is room for, optuna suggests them. When all are
trained, their alphas are searched on the held-out logits, and an ensemble is selected from the
members of all of them. All choices are made on the held-out part of train.

Everything is kept in the directory of the sweep (output; runs/sweep_TASK if it is not given): give
the same command again, and it goes on. It ends with best.yaml for jobs/ensemble.py, the best
ensemble in best/, report.html, and one line of JSON on stdout.
exit code: 0 done, 1 the sweep or a trial failed, 2 something in the input is wrong"""

EXAMPLES = """\
  python jobs/sweep.py --config configs/sweep_demo.yaml
  python jobs/sweep.py --config configs/sweep_mrpc.yaml data.path=GLUE sweep.trials=24
  python jobs/sweep.py --config configs/mrpc.yaml data.path=GLUE \\
      "sweep.space.member.learning_rate={loguniform: [5e-5, 1e-3]}"
  ray job submit --working-dir . -- python jobs/sweep.py --config configs/sweep_mrpc.yaml \\
      data.path=/shared/glue output=/shared/sweeps/mrpc"""


def main(arguments: list[str] | None = None) -> None:
    """Check the input, show the plan, do the work, show the results."""
    sweep, flags = parse_with(load_sweep, _keys, DESCRIPTION, EXAMPLES, arguments)

    # Only now: --help and a mistyped key should not wait for torch and Ray.
    from bebert_ray.cluster.resources import connected, room
    from bebert_ray.pipeline.prepare import prepare
    from bebert_ray.pipeline.results import to_json
    from bebert_ray.reporting.tables import print_plan
    from bebert_ray.storage import keep, lock
    from bebert_ray.sweep.best import conclude, keep_best
    from bebert_ray.sweep.directory import check_data, check_directory, open_directory, plan, to_run
    from bebert_ray.sweep.report import everything, page, print_outcome, summary
    from bebert_ray.sweep.search import make_stages, search, take
    from bebert_ray.sweep.trial import trial_allotments

    out, progress = console(), console(stderr=True)
    shared = prepare(sweep.shared())
    check_directory(sweep)
    check_data(sweep, shared)
    directory = sweep.directory
    for dimension in sweep.space:
        [(kind, values)] = dimension.given.items()
        out.print(f"searched: {dimension.key}, {kind} {to_json(values)}")
    with connected(sweep.config.resources) as nodes:
        allotments = trial_allotments(sweep.config, nodes, sweep)
        at_once = room(nodes, allotments.member) // allotments.in_flight
        out.print(f"trials: {sweep.settings.trials}, {at_once} at a time if all are as configured")
        print_plan(plan(sweep, shared), allotments, nodes, directory, out)
        if flags.dry_run:
            return
        with lock(directory):
            open_directory(sweep)
            splits = make_stages(shared, nodes, progress)
            records = search(sweep, shared, nodes, progress.print)
            outcome = conclude(sweep, shared, splits, records)
            if packing := keep_best(outcome, shared):
                prepared, step = packing
                take(step, prepared, splits, nodes, progress)
            keep(directory / "results.json", to_json(everything(outcome), indent=2).encode())
            keep(directory / "report.html", page(outcome).encode())
    print_outcome(outcome, out)
    out.print(f"best configuration: {directory / 'best.yaml'}, best ensemble: {directory / 'best'}")
    out.print(f"all figures: {directory / 'results.json'}, report: {directory / 'report.html'}")
    print(to_json(summary(outcome)), flush=True)
    if failed := to_run(sweep, records):
        raise RunError(
            "some trials failed; the rest is done, and the same command tries these again:\n"
            + "\n".join(f"  {record.name}: {record.reason}" for record in failed)
        )


def _keys() -> str:
    return describe(SWEEP) + "\n" + describe()


if __name__ == "__main__":
    sys.exit(run_job(main))
