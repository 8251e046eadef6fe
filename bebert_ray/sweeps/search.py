"""How a sweep is put together: shared stages, trials, the best of them.

`bebert sweep`, `jobs/sweep.py` and `bebert_ray.sweep` all call `run_sweep`.
"""

from __future__ import annotations

from rich.console import Console

from bebert_ray.cluster.resources import allot, connected, room
from bebert_ray.errors import RunError
from bebert_ray.pipeline.layout import REPORT, RESULTS
from bebert_ray.pipeline.prepare import prepare
from bebert_ray.pipeline.results import to_json
from bebert_ray.reporting.tables import print_plan
from bebert_ray.run import execute
from bebert_ray.storage import check_unlocked, keep, lock
from bebert_ray.sweeps.best import Outcome, conclude, keep_best
from bebert_ray.sweeps.directory import check_data, check_directory, open_directory, plan, to_run
from bebert_ray.sweeps.report import everything, page
from bebert_ray.sweeps.settings import Sweep
from bebert_ray.sweeps.trial import trial_allotments
from bebert_ray.sweeps.tune import search


def run_sweep(
    sweep: Sweep, out: Console, progress: Console, *, dry_run: bool = False
) -> Outcome | None:
    """Train the trials of a sweep, and leave the best of them in its directory.

    Args:
        sweep: what is searched.
        out: shows the space and the plan.
        progress: shows how far the trials are.
        dry_run: check the input and show the plan; nothing is written.

    Returns:
        The outcome; None of a dry run.

    Raises:
        UserError: the input is wrong; nothing was written.
        RunError: the shared stages failed, or no trial has made an ensemble.
    """
    shared = prepare(sweep.shared())
    sweep = sweep.with_arithmetic(shared.config.training)
    check_directory(sweep)
    check_data(sweep, shared)
    directory = sweep.directory
    check_unlocked(directory)
    for dimension in sweep.space:
        [(kind, values)] = dimension.given.items()
        out.print(f"searched: {dimension.key}, {kind} {to_json(values)}")
    with connected(sweep.config.resources) as nodes:
        allotments = trial_allotments(sweep.config, nodes, sweep, shared.shape)
        at_once = room(nodes, allotments.member) // allotments.in_flight
        out.print(f"trials: {sweep.settings.trials}, {at_once} at a time if all are as configured")
        print_plan(plan(sweep, shared), allotments, nodes, directory, out)
        if dry_run:
            return None
        with lock(directory):
            open_directory(sweep)
            with lock(shared.directory):
                stages = allot(shared.config, nodes, shape=shared.shape)
                splits = execute(shared, stages, progress, stages_only=True).splits
            records = search(sweep, shared, nodes, progress.print)
            outcome = conclude(sweep, shared, splits, records)
            if packing := keep_best(outcome, shared):
                best, step = packing
                with lock(best.directory):
                    allotments = allot(best.config, nodes, shape=best.shape)
                    execute(best, allotments, progress, step=step, splits=splits)
            keep(directory / RESULTS, to_json(everything(outcome), indent=2).encode())
            keep(directory / REPORT, page(outcome).encode())
    return outcome


def raise_failed_trials(outcome: Outcome) -> None:
    """Tell of trials that failed, once everything else is done.

    Raises:
        RunError: some did; the same command tries them again.
    """
    if failed := to_run(outcome.sweep, outcome.records):
        raise RunError(
            "some trials failed; the rest is done, and the same command tries these again:\n"
            + "\n".join(f"  {record.name}: {record.reason}" for record in failed)
        )
