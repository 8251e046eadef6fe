"""The process that trains: a Ray actor that takes one step of a run and leaves an artifact.

The class knows nothing of Ray, so that a step can be taken in any process.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from bebert_ray.config import Config
from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import COPIES, Copies
from bebert_ray.data.tasks import Task
from bebert_ray.errors import UserError
from bebert_ray.nn.compiled import find_compiler, use_compiler_, uses_compiler
from bebert_ray.pipeline.pack import leave_packed
from bebert_ray.pipeline.steps import Step
from bebert_ray.storage import Artifact, Location
from bebert_ray.training import parallel
from bebert_ray.training.checkpoints import Checkpoints
from bebert_ray.training.fit import Progress
from bebert_ray.training.member import RIVALS, MemberTraining, lesson_of
from bebert_ray.training.predict import predict
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
    # Compile in this process: a pool of processes that compile would take memory from the others.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


def worker_environment(threads: int, gpu: float = 0.0) -> dict[str, str]:
    """The environment variables that a process which computes starts with.

    Args:
        threads: CPUs to use.
        gpu: what Ray gives it of a GPU. Ray sets CUDA_VISIBLE_DEVICES where this is not 0; where it
            is 0, Ray 2.60 leaves the variable as it is, and the process would see all GPUs.
    """
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)} | hidden


def allotted_device(gpu: float) -> torch.device:
    """The device of a process that Ray gives so much of a GPU.

    Raises:
        UserError: it is given one, and torch sees none.
    """
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"Ray gives this process on {socket.gethostname()} a GPU, but torch sees none there; "
            "install a torch with CUDA, or set resources.stage.gpu=0 and resources.member.gpu=0"
        )
    return torch.device("cuda")


class Worker:
    """Takes steps, with the CPUs and the GPU that its process has.

    A member that trains in rounds stays in memory from one to the next, as long as no other comes
    in between.

    Args:
        config: the run's configuration.
        task: the run's task.
        directory: the run directory, which holds the encoder too.
        threads: CPUs to use.
        report: where events go, as dicts; each has a `kind` and the `stage` that it is about.
        predict: makes the logits of a split; see `training.predict.predict`.
        gpu: what the process has been given of a GPU; 0: it computes on the CPU.
        beat: seconds between two signs of life while a step runs.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        directory: Location,
        threads: int,
        report: Callable[[dict[str, Any]], None],
        predict: Predict = predict,
        gpu: float = 0.0,
        beat: float = 30.0,
    ):
        torch.set_num_threads(threads)
        self.config, self.task = config, task
        use_compiler_(config.training.compile == "on" and find_compiler() is not None)
        self.report, self.predict = report, predict
        self.directory = directory
        self._gpu, self._beat = gpu, beat
        self._job = ""
        self._training: MemberTraining | None = None

    def run(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> tuple[Artifact, Logits]:
        """Train what the step asks for, or pack it, and leave it where the step says.

        Args:
            step: a shared stage, a round, a member, a fold or the packed model.
            splits: the arrays of the tokenised examples, by split; and of the augmented copies, if
                there are any, as `COPIES`.

        Returns:
            The artifact, and its logits; none of the packed model.
        """
        here = {
            "stage": step.job,
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "log": os.path.realpath("/proc/self/fd/2"),
        }
        work = self._work(step, splits)
        self.report({"kind": "start", **here})
        if self.config.training.compile == "on" and not uses_compiler():
            work.checkpoints.note(
                f"no C++ compiler on {socket.gethostname()}: quantizers are not compiled there, "
                "which is slower; the formulas are the same"
            )
        with _signs_of_life(self.report, {"kind": "alive", **here}, self._beat):
            return self._make(step, work)

    def _make(self, step: Step, work: Work) -> tuple[Artifact, Logits]:
        if step.kind == "model":
            return leave_packed(work, step.path, step.stage, step.inputs), {}
        flipped: dict[str, Any] = {}
        if step.member is None or step.sample_weight is None:
            stage = replace(work.kind.stage(step.name), inputs=step.inputs)
            model = (RECIPES | RIVALS)[stage.recipe](work, stage)
        else:
            training = self._member(step.job, step.member, work)
            model = training.advance(work, step.sample_weight)
            flipped = training.flipped()
        if step.kind == "round":
            made = leave_logits(work, model, step.path, step.stage, step.inputs)
        else:
            # Members, and what is compared with them, are scored as they ship.
            shipped = step.inputs.get("precision")
            made = leave_model(work, model, step.path, step.stage, step.inputs, flipped, shipped)
        if step.kind != "round":
            self._job, self._training = "", None
            parallel.once(work.checkpoints.clear)
        return made

    def _work(self, step: Step, splits: dict[str, dict[str, np.ndarray]]) -> Work:
        def note(text: str) -> None:
            self.report({"kind": "note", "stage": step.job, "text": text})

        def report(progress: Progress) -> None:
            event = asdict(progress)
            without_gradient = event.pop("without_gradient")
            self.report({"kind": "progress", "stage": step.job, **event})
            if without_gradient:
                note(_gradient_note(without_gradient, progress.epoch))

        columns = {
            name: Columns.from_arrays(arrays) for name, arrays in splits.items() if name != COPIES
        }
        copies = Copies.from_arrays(splits[COPIES]) if COPIES in splits else None
        examples = Splits(
            self.task, columns.pop("train"), columns.pop("selection"), columns, copies
        )
        checkpoints = Checkpoints(step.checkpoints, step.inputs, step.earlier, note)
        return Work(
            self.config,
            examples,
            self.directory,
            checkpoints,
            report,
            self.predict,
            allotted_device(self._gpu),
        )

    def _member(self, job: str, member: int, work: Work) -> MemberTraining:
        if self._training is None or self._job != job:
            self._job, self._training = job, MemberTraining(work, lesson_of(work, member))
        return self._training


@contextmanager
def _signs_of_life(
    report: Callable[[dict[str, Any]], None], event: dict[str, Any], seconds: float
) -> Iterator[None]:
    """Report an event again and again, from a thread: to score or pack may take long in silence."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            report(event)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _gradient_note(without_gradient: tuple[str, ...], epoch: int) -> str:
    first, others = without_gradient[0], len(without_gradient) - 1
    more = f" and {others} other parameters" if others else ""
    return (
        f"in epoch {epoch} no gradient reached {first}{more}, which so learn no more; a lower "
        "learning rate may help, and for 1-1-1 wider activations on the way (binary.through)"
    )
