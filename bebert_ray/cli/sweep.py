"""`bebert sweep`, and `jobs/sweep.py`: search for the best ensemble."""

from __future__ import annotations

from collections.abc import Sequence

from bebert_ray.cli.common import consoles, parse_config
from bebert_ray.cluster.cpus import check_cpus
from bebert_ray.config.check import describe
from bebert_ray.sweeps.settings import SWEEP, load_sweep

DESCRIPTION = """\
Search for the best ensemble: train many, each from the same stages, which are made once.

The configuration is that of `bebert train` and says what a trial is; sweep.space says what trials
differ in, by key of the section member or ensemble (but trunks, baselines and distill):
  sweep.space.KEY: {uniform|loguniform|randint: [low, high]}, {quniform: [low, high, step]},
  {choice: [value, ...]}; for settings that only fit together, KEY is a section:
  sweep.space.ensemble: {choice: [{method: bagging}, {method: boosting, schedule: pipelined}]}
Ray Tune runs as many trials at once as there is room for, optuna suggests them. When all are
trained, their alphas are searched on the held-out logits, and an ensemble is selected from the
members of all of them. All choices are made on the held-out part of train.

Everything is kept in the directory of the sweep (output; runs/sweep_TASK if it is not given): give
the same command again, and it goes on. It ends with best.yaml for `bebert train`, the best
ensemble in best/, report.html, and one line of JSON on stdout.
exit code: 0 done, 1 the sweep or a trial failed, 2 something in the input is wrong"""

EXAMPLES = """\
  bebert sweep --config sweep_demo
  bebert sweep --config sweep_mrpc data.path=GLUE sweep.trials=24
  bebert sweep --config mrpc data.path=GLUE \\
      "sweep.space.member.learning_rate={loguniform: [5e-5, 1e-3]}"
  ray job submit --working-dir . -- python jobs/sweep.py --config sweep_mrpc \\
      data.path=/shared/glue output=/shared/sweeps/mrpc"""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Check the input, show the plan, do the work, show the results."""
    settings, flags = parse_config(load_sweep, _keys, DESCRIPTION, EXAMPLES, arguments, prog)
    check_cpus(settings.config.resources.num_cpus)

    # Only now: --help and a mistyped key should not wait for torch and Ray.
    from bebert_ray.pipeline.results import to_json
    from bebert_ray.sweeps.report import print_outcome, summary
    from bebert_ray.sweeps.search import raise_failed_trials, run_sweep

    out, progress = consoles(flags)
    outcome = run_sweep(settings, out, progress, dry_run=flags.dry_run)
    if outcome is not None:
        place = settings.directory
        print_outcome(outcome, out)
        out.print(f"best configuration: {place / 'best.yaml'}, best ensemble: {place / 'best'}")
        out.print(f"all figures: {place / 'results.json'}, report: {place / 'report.html'}")
        print(to_json(summary(outcome)), flush=True)
        raise_failed_trials(outcome)


def _keys() -> str:
    return describe(SWEEP) + "\n" + describe()
