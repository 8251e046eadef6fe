"""The workers of a run: Ray actors, one for the shared stages and one for each member."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue

from bebert_ray.data.columns import Columns
from bebert_ray.ensemble.cluster import Allotment, Allotments
from bebert_ray.ensemble.members import save_weights
from bebert_ray.ensemble.prepare import Prepared
from bebert_ray.ensemble.steps import Step
from bebert_ray.ensemble.worker import ENVIRONMENT, Worker
from bebert_ray.errors import RunError, UserError
from bebert_ray.progress import Board
from bebert_ray.storage import Artifact, Miss

POLL = 0.5  # seconds between looks at the workers


class Crew:
    """Has steps done by workers, as soon as there is room for them, and watches until they are.

    Args:
        prepared: the run.
        splits: its examples by split.
        allotments: what the worker of a stage, and of a member, gets of the cluster.
        board: shows the progress.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        allotments: Allotments,
        board: Board,
    ):
        self._prepared, self._columns = prepared, splits
        self._allotments, self._board = allotments, board
        self._stage_worker: Any = None

    @cached_property
    def _splits(self) -> Any:
        # numpy arrays are read by every worker of a machine from one shared copy.
        return ray.put({name: columns.to_arrays() for name, columns in self._columns.items()})

    @cached_property
    def _events(self) -> Queue:
        return Queue(actor_options={"num_cpus": 0})

    def do(self, steps: list[Step]) -> list[Artifact]:
        """What the steps make; those that are not done yet are now, at the same time.

        Raises:
            RunError: a step failed; the message says which, and why.
        """
        found = {step: step.find() for step in steps}
        missing = [step for step, known in found.items() if isinstance(known, Miss)]
        for step in missing:
            if step.sample_weight is not None:
                save_weights(step.sample_weight, self._prepared.directory, step.path.name)
        self._watch({self._start(step): step for step in missing})
        return [_made(step) if isinstance(known, Miss) else known for step, known in found.items()]

    def _start(self, step: Step) -> Any:
        if step.member is None:
            self._stage_worker = self._stage_worker or self._hire(self._allotments.stage)
            return self._stage_worker.take.remote(step, self._splits)
        # An actor ends, and makes room, once its calls are done and no handle is left.
        self._stage_worker = None
        return self._hire(self._allotments.member).take.remote(step, self._splits)

    def _hire(self, allotment: Allotment) -> Any:
        prepared = self._prepared
        actor: Any = ray.remote(Worker)
        return actor.options(
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
            self._events.put,
        )

    def _watch(self, steps: dict[Any, Step]) -> None:
        """Show the progress of calls until all are done; `steps` by Ray's reference to the call."""
        pending = list(steps)
        while pending:
            done, pending = ray.wait(pending, timeout=POLL)
            for event in self._events.get_nowait_batch(self._events.qsize()):
                self._board.show(event)
            for call in done:
                _check(call, steps[call])


def _check(call: Any, step: Step) -> None:
    try:
        ray.get(call)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError | RunError | OSError):
            raise RunError(f"{step.name} failed: {cause}") from error
        raise RunError(f"{step.name} failed, with a mistake of ours:\n{error}") from error
    except RayError as error:
        raise RunError(
            f"{step.name} failed: its process died; what was finished before is kept, give the "
            f"same command again to go on\n{error}"
        ) from error


def _made(step: Step) -> Artifact:
    found = step.find()
    if isinstance(found, Miss):
        raise RunError(
            f"{step.name} was done, but {step.path} is not there or not whole ({found.reason}); "
            "all machines of the cluster must share the disk of the run directory"
        )
    return found
