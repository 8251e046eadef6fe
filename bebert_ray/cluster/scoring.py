"""Scoring of large splits: shared with whatever the cluster has idle at that moment."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from transformers import BertConfig

from bebert_ray.cluster.resources import Allotment
from bebert_ray.cluster.worker import allotted_device, worker_environment
from bebert_ray.data.batches import eval_batches
from bebert_ray.data.columns import Columns
from bebert_ray.nn.bert import build
from bebert_ray.packed.layers import is_packed
from bebert_ray.packed.model import rebuilt
from bebert_ray.training.predict import in_order, predict, predict_batches
from bebert_ray.training.work import Model

SHARE = 4096  # examples that a helper is given at a time: many seconds' worth on a CPU


class SharedScoring:
    """Predicts logits as `training.predict.predict` does, with the help of idle CPUs and GPUs.

    The process that has trained a model scores the batches from the first one on, and gives shares
    from the last one on to Ray tasks with the same allotment: as many as there is room for when it
    begins. It does not wait for them: shares whose logits have not arrived when all others are
    scored, it scores itself. All processes have the same number of threads, so a batch has the same
    logits, to the bit, in each of them.

    Args:
        allotment: what this process has of the cluster, and each helper gets.
    """

    def __init__(self, allotment: Allotment):
        self._allotment = allotment

    def __call__(
        self, model: Model, columns: Columns, batch_size: int, precision: str = "fp32"
    ) -> np.ndarray:
        """Logits [n, K] of every example, in dataset order; see `training.predict.predict`."""
        batches = eval_batches(columns.lengths, batch_size)
        size = max(1, SHARE // batch_size)
        shares = [batches[start : start + size] for start in range(0, len(batches), size)]
        helpers = min(self._idle(), len(shares) - 1)
        if helpers < 1:
            return predict(model, columns, batch_size, precision)
        model.eval()
        made: dict[int, np.ndarray] = {}
        asked: dict[Any, int] = {}  # by Ray's reference to the task
        ask = self._asker(model, columns, precision)
        back = len(shares)
        for front, share in enumerate(shares):
            while True:
                done, _ = ray.wait(list(asked), timeout=0) if asked else ([], [])
                for task in done:
                    _take(task, asked.pop(task), made)
                if len(asked) == helpers or back <= front + 1:
                    break
                back -= 1
                asked[ask(shares[back])] = back
            if front not in made:
                made[front] = predict_batches(model, columns, share, precision)
        for task in asked:  # done meanwhile by this process
            ray.cancel(task, force=True)
        return in_order(np.concatenate([made[number] for number in range(len(shares))]), batches)

    def _idle(self) -> int:
        have, need = ray.available_resources(), self._allotment
        limits = [have.get("CPU", 0) // need.cpu]
        limits += [have.get("GPU", 0) // need.gpu] if need.gpu else []
        limits += [have.get("memory", 0) // need.memory] if need.memory else []
        return int(min(limits))

    def _asker(self, model: Model, columns: Columns, precision: str) -> Any:
        need = self._allotment
        weights = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
        config, finalised = model.config.to_dict(), is_packed(model)
        model_ref = ray.put({"config": config, "weights": weights, "finalised": finalised})
        columns_ref = ray.put(columns.to_arrays())
        task = ray.remote(_score).options(
            num_cpus=need.cpu,
            num_gpus=need.gpu,
            memory=need.memory or None,
            max_retries=0,
            runtime_env={"env_vars": worker_environment(need.cpu, need.gpu)},
        )
        return lambda share: task.remote(
            model_ref, columns_ref, share, need.cpu, need.gpu, precision
        )


def _score(
    packed: dict[str, Any],
    arrays: dict[str, np.ndarray],
    share: list[np.ndarray],
    threads: int,
    gpu: float,
    precision: str,
) -> np.ndarray:
    torch.set_num_threads(threads)
    weights = {name: torch.from_numpy(array.copy()) for name, array in packed["weights"].items()}
    make = rebuilt if packed["finalised"] else build
    model = make(BertConfig.from_dict(packed["config"]), weights).eval()
    model.to(allotted_device(gpu))
    return predict_batches(model, Columns.from_arrays(arrays), share, precision)


def _take(task: Any, number: int, made: dict[int, np.ndarray]) -> None:
    with suppress(RayError):  # this process gets there itself
        made[number] = ray.get(task)
