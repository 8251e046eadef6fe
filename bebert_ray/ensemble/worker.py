"""The process that trains: a Ray actor that takes one step of a run and leaves an artifact.

The class knows nothing of Ray, so that a step can be taken in any process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bebert_ray.config import Config
from bebert_ray.data.columns import Columns
from bebert_ray.data.tasks import Task
from bebert_ray.ensemble.steps import Step
from bebert_ray.models.bert import Checkpoint
from bebert_ray.training.fit import Progress
from bebert_ray.training.stages import STAGES, Splits, Work, run_stage, train_member

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


class Worker:
    """Takes steps, with the CPUs and the GPU that its process has.

    Args:
        config: the run's configuration.
        task: the run's task.
        checkpoint: the encoder that the run starts from.
        directory: the run directory.
        threads: CPUs to use.
        report: where the progress goes, as dicts.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        checkpoint: Checkpoint,
        directory: Path,
        threads: int,
        report: Callable[[dict[str, Any]], None],
    ):
        torch.set_num_threads(threads)
        self.config, self.task, self.report = config, task, report
        self.checkpoint, self.directory = checkpoint, directory

    def take(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> None:
        """Train what the step asks for, and leave it where the step says.

        Args:
            step: a shared stage, a member or a fold.
            splits: the arrays of the tokenised examples, by split.
        """

        def report(progress: Progress) -> None:
            self.report({"stage": step.name, **asdict(progress)})

        columns = {name: Columns.from_arrays(arrays) for name, arrays in splits.items()}
        examples = Splits(self.task, columns.pop("train"), columns.pop("selection"), columns)
        work = Work(self.config, examples, self.checkpoint, self.directory, report)
        if step.member is None or step.sample_weight is None:
            train = partial(STAGES[step.stage], work)
        else:
            train = partial(train_member, work, step.sample_weight, step.member)
        run_stage(work, step.path, step.stage, step.inputs, train)
