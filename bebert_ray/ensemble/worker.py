"""The process that trains: a Ray actor that runs a stage, or one member, and leaves an artifact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.queue import Queue

from bebert_ray.config import Config
from bebert_ray.data.columns import Columns
from bebert_ray.data.tasks import Task
from bebert_ray.models.bert import Checkpoint
from bebert_ray.training.fit import Progress
from bebert_ray.training.stages import STAGES, Splits, Work, run_stage, train_member

# glibc hands every large tensor back to the kernel and fetches it again a moment later. These keep
# freed memory in the process, which saves about a quarter of a training step; they must be set
# before Python starts.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    # Threads that wait by spinning take the cores from whoever else works on the machine, our own
    # other workers first: two threads on busy cores ran at a third of the speed.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}


@ray.remote
class Worker:
    """Trains on the CPUs and the GPU that Ray assigned to it.

    Args:
        config: the run's configuration.
        task: the run's task.
        checkpoint: the encoder that the run starts from.
        directory: the run directory.
        threads: CPUs assigned.
        events: where the progress goes, as dicts.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        checkpoint: Checkpoint,
        directory: Path,
        threads: int,
        events: Queue,
    ):
        torch.set_num_threads(threads)
        self.config, self.task = config, task
        self.checkpoint, self.directory, self.events = checkpoint, directory, events

    def run_stage(self, stage: str, inputs: dict[str, Any], splits: dict[str, Any]) -> None:
        """Run one of the stages that all members share."""
        work = self._work(stage, splits)
        run_stage(work, self.directory / stage, stage, inputs, lambda: STAGES[stage](work))

    def train_member(
        self,
        name: str,
        member: int,
        inputs: dict[str, Any],
        splits: dict[str, Any],
        sample_weight: np.ndarray,
    ) -> None:
        """Train one member, or one of its folds, and leave it at `members/<name>`."""
        work = self._work(f"member {name}", splits)
        path = self.directory / "members" / name
        run_stage(work, path, "member", inputs, lambda: train_member(work, sample_weight, member))

    def _work(self, label: str, splits: dict[str, Any]) -> Work:
        def report(progress: Progress) -> None:
            self.events.put({"stage": label, **asdict(progress)})

        columns = {name: Columns.from_arrays(arrays) for name, arrays in splits.items()}
        return Work(
            self.config,
            Splits(self.task, columns.pop("train"), columns.pop("selection"), columns),
            self.checkpoint,
            self.directory,
            report,
        )
