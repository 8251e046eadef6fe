"""The process that trains: a Ray actor that takes one step of a run and leaves an artifact.

The class knows nothing of Ray, so that a step can be taken in any process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from bebert_ray.config import Config
from bebert_ray.data.columns import Columns
from bebert_ray.data.tasks import Task
from bebert_ray.nn.checkpoint import Checkpoint
from bebert_ray.pipeline.pack import leave_packed
from bebert_ray.pipeline.steps import Step
from bebert_ray.storage import Artifact, Location
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import Checkpoints
from bebert_ray.training.fit import Progress, predict
from bebert_ray.training.member import MemberTraining
from bebert_ray.training.stages import RECIPES
from bebert_ray.training.work import Logits, Predict, Splits, Work, leave_logits, leave_model

# glibc hands every large tensor back to the kernel and fetches it again a moment later. These keep
# freed memory in the process, which saves about a quarter of a training step; they must be set
# before Python starts.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    # How long a thread that waits for its siblings spins before it sleeps. By default so long that
    # on a machine with other work two threads are a third as fast as one; not at all costs half
    # of the speed on a quiet one.
    "GOMP_SPINCOUNT": "1000",
    "TOKENIZERS_PARALLELISM": "false",
}


def worker_environment(threads: int) -> dict[str, str]:
    """The environment variables that a process which computes with so many threads starts with."""
    return ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}


class Worker:
    """Takes steps, with the CPUs and the GPU that its process has.

    A member that trains in rounds stays in memory from one to the next, as long as no other comes
    in between.

    Args:
        config: the run's configuration.
        task: the run's task.
        checkpoint: the encoder that the run starts from.
        directory: the run directory.
        threads: CPUs to use.
        report: where events go, as dicts; each has a `kind` and the `stage` that it is about.
        predict: makes the logits of a split; see `training.fit.predict`.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        checkpoint: Checkpoint,
        directory: Location,
        threads: int,
        report: Callable[[dict[str, Any]], None],
        predict: Predict = predict,
    ):
        torch.set_num_threads(threads)
        self.config, self.task = config, task
        self.report, self.predict = report, predict
        self.checkpoint, self.directory = checkpoint, directory
        self._trainee = ""
        self._training: MemberTraining | None = None

    def run(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> tuple[Artifact, Logits]:
        """Train what the step asks for, or pack it, and leave it where the step says.

        Args:
            step: a shared stage, a round, a member, a fold or the packed model.
            splits: the arrays of the tokenised examples, by split.

        Returns:
            The artifact, and its logits; none of the packed model.
        """
        work = self._work(step, splits)
        self.report(
            {
                "kind": "start",
                "stage": step.trainee,
                "node": socket.gethostname(),
                "pid": os.getpid(),
                "log": os.path.realpath("/proc/self/fd/2"),
            }
        )
        if step.kind == "model":
            return leave_packed(work, step.path, step.stage, step.inputs), {}
        flipped: dict[str, Any] = {}
        if step.member is None or step.sample_weight is None:
            stage = work.kind.stage(step.name)
            model = RECIPES[stage.recipe](work, stage)
        else:
            training = self._member(step.trainee, step.member, work)
            model = training.advance(work, step.sample_weight)
            flipped = training.flipped()
        if step.kind == "round":
            made = leave_logits(work, model, step.path, step.stage, step.inputs)
        else:
            made = leave_model(work, model, step.path, step.stage, step.inputs, flipped)
        if step.kind != "round":
            self._trainee, self._training = "", None
            parallel.once(work.checkpoints.clear)
        return made

    def _work(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> Work:
        def note(text: str) -> None:
            self.report({"kind": "note", "stage": step.trainee, "text": text})

        def report(progress: Progress) -> None:
            event = asdict(progress)
            starved = event.pop("starved")
            self.report({"kind": "progress", "stage": step.trainee, **event})
            if starved:
                note(_no_gradient(starved, progress.epoch))

        columns = {name: Columns.from_arrays(arrays) for name, arrays in splits.items()}
        examples = Splits(self.task, columns.pop("train"), columns.pop("selection"), columns)
        checkpoints = Checkpoints(step.checkpoints, step.inputs, step.earlier, note)
        return Work(
            self.config,
            examples,
            self.checkpoint,
            self.directory,
            checkpoints,
            report,
            self.predict,
        )

    def _member(self, trainee: str, member: int, work: Work) -> MemberTraining:
        if self._training is None or self._trainee != trainee:
            self._trainee, self._training = trainee, MemberTraining(work, member)
        return self._training


def _no_gradient(starved: tuple[str, ...], epoch: int) -> str:
    first, others = starved[0], len(starved) - 1
    more = f" and {others} other parameters" if others else ""
    return (
        f"in epoch {epoch} no gradient reached {first}{more}: what is starved learns no more; a "
        "lower learning rate may help, and for 1-1-1 wider activations on the way (binary.through)"
    )
