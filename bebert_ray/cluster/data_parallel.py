"""Shared stages with several processes: a group that Ray Train starts and watches.

Ray Train gives the processes their room, all at once, and joins them with torch.distributed. What
they do is what a worker alone does (see `training.parallel`); checkpoints and restarts are the
run's own, and so Ray Train neither keeps nor repeats anything.
"""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer, get_device
from ray.util.placement_group import (
    PlacementGroup,
    PlacementGroupID,
    placement_group_table,
    remove_placement_group,
)

from bebert_ray.cluster.resources import Allotment
from bebert_ray.cluster.worker import Worker, allotted_device, worker_environment
from bebert_ray.config import Config
from bebert_ray.data.tasks import Task
from bebert_ray.errors import RunError
from bebert_ray.pipeline.driver import found
from bebert_ray.pipeline.steps import Step
from bebert_ray.storage import Artifact, Location, Miss
from bebert_ray.training import parallel
from bebert_ray.training.work import Logits

_MARKS = 2**16  # bytes: less than anyone notices


class GroupLost(Exception):
    """A process of a group has died; the step is to be taken again, from its checkpoint."""


class Group:
    """Takes shared steps as a `Worker` does, with several processes; itself it computes nothing.

    Args:
        config: the run's configuration.
        task: the run's task.
        directory: the run directory.
        allotment: what each process gets of the cluster, `marked`.
        size: how many processes.
        report: where the events of the first process go.
        beat: see `Worker`.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        directory: Location,
        allotment: Allotment,
        size: int,
        report: Callable[[dict[str, Any]], None],
        beat: float = 30.0,
    ):
        self._run, self._beat = (config, task, directory), beat
        self._allotment, self._size, self._report = allotment, size, report

    def run(self, step: Step, splits: list[Any]) -> tuple[Artifact, Logits]:
        """Train what the step asks for, and leave it where the step says.

        Args:
            step: a shared stage.
            splits: Ray's reference to the arrays of the tokenised examples, alone in a list, so
                that they go from the store to the processes and not through this one.

        Returns:
            The artifact, and no logits.

        Raises:
            GroupLost: a process has died.
            UserError, RunError, OSError: what one of them has raised; so with any other exception.
        """
        run, need, post, beat = self._run, self._allotment, self._report, self._beat

        def train() -> None:
            report = post if parallel.rank() == 0 else lambda _: None
            if need.gpu:  # all GPUs of the machine's processes are visible, for NCCL
                allotted_device(need.gpu)
                torch.cuda.set_device(get_device())
            worker = Worker(*run, need.cpu, report, gpu=need.gpu, beat=beat)
            worker.run(step, ray.get(splits[0]))

        # Ray Train wants a place for results of its own: it gets one that is gone afterwards.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            trainer = TorchTrainer(
                train,
                scaling_config=ScalingConfig(
                    num_workers=self._size,
                    use_gpu=self._allotment.gpu > 0,
                    resources_per_worker=self._resources(),
                ),
                run_config=RunConfig(
                    name=step.name,
                    storage_path=place,
                    failure_config=FailureConfig(
                        max_failures=0,
                        controller_failure_limit=0,  # type: ignore[call-arg]  # hints lag behind
                    ),
                ),
            )
            try:
                trainer.fit()
            except WorkerGroupError as error:
                raise _reason(error) from error
            except (TrainingFailedError, RayActorError) as error:
                # The second: Ray Train's controller, a process of its own, has died.
                raise GroupLost(str(error)) from error
        known = found(step)
        if isinstance(known, Miss):
            raise RunError(f"{step.path} was written, but is {known.reason}")
        return known

    def _resources(self) -> dict[str, float]:
        need = self._allotment
        wanted = {"CPU": float(need.cpu), "GPU": need.gpu, "memory": need.memory}
        return {name: amount for name, amount in wanted.items() if amount}


def marked(allotment: Allotment) -> Allotment:
    """An allotment with some bytes of memory less, by which `remove_reservations` knows it."""
    mark = 1.0 + secrets.randbelow(_MARKS)
    return replace(allotment, memory=max(math.floor(allotment.memory) - mark, mark))


def remove_reservations(allotment: Allotment) -> None:
    """Free the room that Ray Train has reserved for a group that is lost.

    If its controller dies, Ray keeps the reservation (a placement group) for as long as the job
    lasts, and the next group would wait for room for ever. Ray Train's own clean-up needs Ray's
    dashboard, which not every cluster has.

    Args:
        allotment: of each process of the group, `marked`.
    """
    job = ray.get_runtime_context().get_job_id()
    for name, entry in placement_group_table().items():
        memory = {bundle.get("memory") for bundle in entry["bundles"].values()}
        ours = name.endswith(job) and memory == {allotment.memory}
        if ours and entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def group_environment(threads: int, gpu: float = 0.0) -> dict[str, str]:
    """The environment variables that a `Group` starts with, and its processes inherit."""
    # To wait for room is no failure, however long.
    return worker_environment(threads, gpu) | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1e9"}


def _reason(error: WorkerGroupError) -> Exception:
    """Why a group has failed: what its program raised, if it did, else that a process is lost.

    Where one process fails, the others lose it.
    """
    failures = [error.worker_failures[rank] for rank in sorted(error.worker_failures)]
    died = [failure for failure in failures if type(failure).__module__.startswith("ray.")]
    for failure in failures:
        if failure not in died and not isinstance(failure, parallel.PeerLost):
            return failure
    return GroupLost(str((died or failures)[0]))
