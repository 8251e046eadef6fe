"""The run: plan it, do what is not done yet in Ray actors, put the ensemble together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.queue import Queue

from bebert_ray.config import to_dict
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate
from bebert_ray.ensemble.aggregate import staged
from bebert_ray.ensemble.cluster import Allotment, Allotments
from bebert_ray.ensemble.members import Ensemble, Job, member_name, save_weights
from bebert_ray.ensemble.prepare import Prepared, open_run, tokenised
from bebert_ray.ensemble.worker import ENVIRONMENT, Worker
from bebert_ray.errors import RunError
from bebert_ray.progress import Board
from bebert_ray.report import Model, Results
from bebert_ray.storage import Artifact, Miss, find
from bebert_ray.training.stages import STAGES, load_logits, versions

POLL = 0.5  # seconds between looks at the workers


def make_plan(prepared: Prepared) -> dict[str, str]:
    """What will happen to each stage and member: "done", or "run" and why; changes nothing."""
    config, directory = prepared.config, prepared.directory
    steps = ["data", *STAGES, *map(member_name, range(config.ensemble.members))]
    plan = dict.fromkeys(steps, "run")
    if config.fresh:
        return plan

    def stands(name: str, found: Artifact | Miss) -> bool:
        if isinstance(found, Artifact):
            plan[name] = "done"
        elif found.reason != "absent":
            plan[name] = f"run ({found.reason})"
        return isinstance(found, Artifact)

    if not stands("data", find(directory / "data", prepared.data)):
        return plan
    parents: dict[str, Artifact] = {}
    for stage in STAGES:
        found = find(directory / stage, prepared.stage_inputs(stage, parents))
        if not stands(stage, found):
            return plan
        parents[stage] = found
    ensemble = Ensemble(prepared, tokenised(prepared), parents)
    while not ensemble.finished:
        found = {job.name: job.find() for job in ensemble.due()}
        if not all([stands(name, artifact) for name, artifact in found.items()]):
            break
        ensemble.advance(list(found.values()))
    return plan


def run(prepared: Prepared, allotments: Allotments, board: Board) -> Results:
    """Do what is not done yet. Needs a connected Ray; hold the lock of the run directory.

    Raises:
        RunError: a stage or a member failed; the message says which, and why.
        UserError: the run directory cannot be written.
    """
    open_run(prepared)
    splits = tokenised(prepared)
    crew = Crew(prepared, board, splits)
    parents: dict[str, Artifact] = {}
    for stage in STAGES:
        inputs = prepared.stage_inputs(stage, parents)
        if isinstance(find(prepared.directory / stage, inputs), Miss):
            worker = crew.hire(allotments.stage)
            crew.wait({worker.run_stage.remote(stage, inputs, crew.splits): stage})
        parents[stage] = _finished(find(prepared.directory / stage, inputs))
    ensemble = Ensemble(prepared, splits, parents)
    while not ensemble.finished:
        jobs = ensemble.due()
        crew.wait(
            {
                _start(crew.hire(allotments.member), crew, job): f"member {job.name}"
                for job in jobs
                if isinstance(job.find(), Miss)
            }
        )
        for job in jobs:
            save_weights(prepared.directory, job)
        ensemble.advance([_finished(job.find()) for job in jobs])
        if ensemble.note:
            board.say(ensemble.note)
    return collect(ensemble)


@dataclass
class Crew:
    """Hires workers, and waits for them while their progress is shown."""

    prepared: Prepared
    board: Board
    columns: dict[str, Columns]

    def __post_init__(self) -> None:
        self.events = Queue(actor_options={"num_cpus": 0})
        # numpy arrays are read by every worker of a machine from one shared copy.
        arrays = {name: columns.to_arrays() for name, columns in self.columns.items()}
        self.splits = ray.put(arrays)

    def hire(self, allotment: Allotment) -> Any:
        """A new actor, in a process of its own, once there is room for it."""
        prepared = self.prepared
        return Worker.options(
            num_cpus=allotment.cpu,
            num_gpus=allotment.gpu,
            memory=allotment.memory or None,
            runtime_env={"env_vars": ENVIRONMENT | {"OMP_NUM_THREADS": str(allotment.cpu)}},
        ).remote(
            prepared.config,
            prepared.task,
            prepared.checkpoint,
            prepared.directory,
            allotment.cpu,
            self.events,
        )

    def wait(self, labels: dict[Any, str]) -> None:
        """Until all of the calls are done.

        Args:
            labels: what each call, a Ray object reference, does.

        Raises:
            RunError: one of them failed.
        """
        pending = list(labels)
        while pending:
            done, pending = ray.wait(pending, timeout=POLL)
            for event in self.events.get_nowait_batch(self.events.qsize()):
                self.board.show(event)
            for call in done:
                try:
                    ray.get(call)
                except RayTaskError as error:
                    cause = error.cause or error
                    raise RunError(
                        f"{labels[call]} failed: {type(cause).__name__}: {cause}"
                    ) from error
                except RayActorError as error:
                    raise RunError(
                        f"{labels[call]} failed: its process died ({error}); "
                        "give the same command again to go on from the last finished stage"
                    ) from error


def collect(ensemble: Ensemble) -> Results:
    """Evaluate the ensemble, and set its figures beside those of the models it came from."""
    prepared, members, splits = ensemble.prepared, ensemble.members, ensemble.splits
    config, task = prepared.config, prepared.task
    alphas = [member.alpha for member in members]
    logits = [load_logits(member.artifact.path) for member in members]
    scores_by_split = {
        name: [
            evaluate(task, scores, columns.labels)
            for scores in staged(np.stack([member[name] for member in logits]), alphas)
        ]
        for name, columns in splits.items()
    }
    return Results(
        run=str(prepared.directory),
        task=task.name,
        metrics=task.metrics,
        dev=tuple(prepared.corpus.dev),
        selection=config.selection,
        seed=config.seed,
        stages={name: _model(name, found) for name, found in ensemble.parents.items()},
        members=[
            replace(_model(m.name, m.artifact), alpha=m.alpha, error=m.error) for m in members
        ],
        staged=[
            {name: scores[i] for name, scores in scores_by_split.items()}
            for i in range(len(members))
        ],
        note=ensemble.note,
        config=to_dict(config),
        versions=versions() | {"ray": ray.__version__},
    )


def _model(name: str, artifact: Artifact) -> Model:
    facts = artifact.facts
    return Model(name, facts["scores"], facts["bits"], facts["seconds"])


def _start(worker: Any, crew: Crew, job: Job) -> Any:
    return worker.train_member.remote(
        job.name, job.member, job.inputs, crew.splits, job.sample_weight
    )


def _finished(found: Artifact | Miss) -> Artifact:
    if isinstance(found, Miss):
        raise RunError(f"an artifact is gone or not whole right after it was made: {found.reason}")
    return found
