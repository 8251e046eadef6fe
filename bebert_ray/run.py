"""How a run is put together: check the input, start workers, write the results.

`bebert train`, `jobs/ensemble.py` and `bebert_ray.train` all call `train`; whatever else needs
steps to be run (a trial of a sweep, a benchmark) calls `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from bebert_ray.cluster.augment import make_augmented
from bebert_ray.cluster.pool import Pool
from bebert_ray.cluster.resources import Allotments, allot, connected
from bebert_ray.cluster.worker import Worker
from bebert_ray.config import Config, to_yaml
from bebert_ray.data.columns import Columns
from bebert_ray.errors import failing
from bebert_ray.pipeline.driver import Run, make_plan, results
from bebert_ray.pipeline.prepare import Prepared, open_run, prepare
from bebert_ray.pipeline.results import Results, to_json
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.reporting.report import draw_report
from bebert_ray.reporting.tables import print_plan
from bebert_ray.storage import Artifact, check_unlocked, keep, lock
from bebert_ray.training.work import Logits

OnStep = Callable[[Run, Step, Artifact, Logits], None]
"""Called with the run, a step that is done, its artifact and its logits."""


def execute(
    prepared: Prepared,
    allotments: Allotments,
    console: Console,
    *,
    stages_only: bool = False,
    step: Step | None = None,
    splits: dict[str, Columns] | None = None,
    on_step: OnStep | None = None,
    worker: type = Worker,
) -> Run:
    """Run the steps that are not done yet, on the Ray that this process is connected to.

    The lock of the run directory must be held.

    Args:
        prepared: the run.
        allotments: what its workers get of the cluster.
        console: where the progress is shown.
        stages_only: end where the members begin.
        step: run this step alone.
        splits: the tokenised examples; None opens the run directory, and makes them there.
        on_step: called after each step of a run, also after those that were done already.
        worker: the class of the workers, see `cluster.pool.Pool`.

    Raises:
        UserError: the directory belongs to something else, or cannot be written.
        RunError: a step failed; the message names it.
    """
    splits = open_run(prepared) if splits is None else splits
    with Board(prepared.directory, console) as board:
        # One step alone is the packed model, which is not trained.
        copies = make_augmented(prepared, board.show, allotments) if step is None else None
        pool = Pool(prepared, splits, allotments, board, worker, copies)
        run = Run(prepared, splits, pool.report, stages_only)

        def advance(step: Step, artifact: Artifact, logits: Logits, new: bool) -> list[Step]:
            due = run.advance(step, artifact, logits, new)
            if on_step is not None:
                on_step(run, step, artifact, logits)
            return due

        try:
            if step is None:
                pool.run(run.start(), advance)
            else:
                pool.run([step], lambda *_: [])
        finally:
            pool.stop()
        run.started = pool.started
    return run


def train(
    config: Config,
    out: Console,
    progress: Console,
    *,
    dry_run: bool = False,
    tables: Mapping[str, Any] | None = None,
) -> Results | None:
    """Train an ensemble, evaluate it, and leave all of it in the run directory.

    Args:
        config: of the run.
        out: shows the configuration and the plan.
        progress: shows how far the steps are.
        dry_run: check the input and show the plan; nothing is written.
        tables: examples in memory, `train` and perhaps `dev`, for `task: custom`; see
            `data.sources.load_corpus`.

    Returns:
        The results; None of a dry run.

    Raises:
        UserError: the input is wrong; nothing was written.
        RunError: a step failed; the same call goes on.
    """
    prepared = prepare(config, tables)
    directory = prepared.directory
    check_unlocked(directory)  # before Ray starts, which takes seconds
    out.print(to_yaml(prepared.config))
    with connected(config.resources) as nodes:
        allotments = allot(config, nodes, shape=prepared.shape)
        print_plan(make_plan(prepared), allotments, nodes, directory, out)
        if dry_run:
            return None
        with lock(directory):
            run = execute(prepared, allotments, progress)
            figures = results(run)
            text = to_json(figures.everything(), indent=2).encode()
            with failing("all steps are done; to write the results"):
                if not keep(prepared.layout.results, text) and not run.started:
                    out.print("results.json was not what the run's artifacts say; written anew")
                draw_report(figures, directory)
    return figures
