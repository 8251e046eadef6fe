"""One training in several processes: each takes its rows of every batch, and all make one step.

Everything here does nothing in a process on its own, so that there is one training loop. In a group
(torch.distributed, set up by the caller) all run through the same program on the
same examples; what differs from one to the next is the share of a batch, and the dropout.

DistributedDataParallel is not used. It works in the forward of a module that it wraps, and a loss
here closes over its models; it gives each process the same say, however many rows it has; and NCCL
cannot add up sparse gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bebert_ray.nn.quantizers import ElasticQuantizer, LsqQuantizer
from bebert_ray.training.losses import Batch

BUCKET = 8 * 2**20  # numbers that are added up at a time; in float32, 32 MiB

T = TypeVar("T")


class PeerLost(Exception):
    """Another process of the group is gone, and so this one cannot go on."""


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def once(function: Callable[[], T]) -> T:
    """Have the first process do something that leaves a trace, while the others wait.

    It must not need the others for it.

    Returns:
        What `function` does, in all processes. It must be possible to pickle it.

    Raises:
        Exception: what `function` does, in all processes.
        PeerLost: a process is gone.
    """
    if size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    with _talking():
        dist.broadcast_object_list(outcome)
    result, failure = outcome
    if failure is not None:
        raise failure
    return result


def align_(model: nn.Module) -> None:
    """Take over the weights of the first process.

    All have made the model in the same way, but machines of different kinds round differently.
    """
    if size() > 1:
        with _talking():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)


def share(batch: Batch) -> tuple[Batch, float]:
    """The rows of a batch that are this process's, and what part of all rows they are.

    They keep the padding of the whole batch. A process that is left without a row takes the first,
    as no part at all: it then has gradients for the same parameters as the others.
    """
    mine = {name: rows.tensor_split(size())[rank()] for name, rows in batch.items()}
    if len(mine["index"]) == 0:
        return {name: rows[:1] for name, rows in batch.items()}, 0.0
    return mine, len(mine["index"]) / len(batch["index"])


def total(value: Tensor) -> Tensor:
    """The sum of a value over all processes."""
    if size() > 1:
        value = value.clone()
        with _talking():
            dist.all_reduce(value)
    return value


def sum_gradients_(model: nn.Module, part: float) -> None:
    """Make gradients of the shares of a batch into the gradients of the batch, in all processes.

    Args:
        model: its gradients are of the mean loss of this process's rows, times `part`.
        part: what part of the batch these rows are.
    """
    if size() == 1:
        return
    for parameter in rooted_parameters(model):
        if parameter.grad is not None:
            parameter.grad.mul_(math.sqrt(part))
    dense: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = _sum_sparse(parameter.grad)
        elif parameter.grad is not None:
            dense.append(parameter.grad)
    for bucket in _buckets(dense):
        flat = total(torch.cat([gradient.flatten() for gradient in bucket]))
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def rooted_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those whose gradient is divided by the root of the number of activations.

    A part of a batch has fewer; see `functions.lsq` and `binary.elastic`.
    """
    return [
        parameter
        for module in model.modules()
        if isinstance(module, LsqQuantizer | ElasticQuantizer)
        for parameter in module.parameters(recurse=False)
    ]


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, those of the first before those of the second, and so on.

    Args:
        rows: [., ...]; the processes may have different numbers of them.
    """
    if size() == 1:
        return rows
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    with _talking():
        counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=device))
        numbers = [int(count) for count in counts]
        padded = torch.zeros(max(numbers), *rows.shape[1:], dtype=rows.dtype, device=device)
        padded[: len(rows)] = rows
        each = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(each, padded)
    found = [theirs[:number] for theirs, number in zip(each, numbers, strict=True)]
    return torch.cat(found).to(rows.device)


def _sum_sparse(gradient: Tensor) -> Tensor:
    mine = gradient.coalesce()
    rows, values = gather(mine.indices()[0]), gather(mine.values())
    summed = torch.sparse_coo_tensor(rows[None], values, mine.shape, check_invariants=False)
    return summed.coalesce()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors together, as long as they have no more than `BUCKET` numbers."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the least that the errors of all back ends have in common
        raise PeerLost(f"process {rank()} of {size()} cannot reach the others: {error}") from error
