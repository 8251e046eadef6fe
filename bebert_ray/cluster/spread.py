"""Independent pieces of work, spread over whatever the cluster has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from bebert_ray.cluster.worker import allotted_device, worker_environment
from bebert_ray.errors import RunError, UserError

Item = TypeVar("Item")


def spread(
    work: Callable[[Any, Item, Any], Any],
    shared: Any,
    items: Sequence[Item],
    name: str,
    gpu: float = 0.0,
) -> Iterator[tuple[Item, Any]]:
    """Do a piece of work for each item, in Ray tasks of one CPU each.

    Args:
        work: from what all have in common, an item and the torch device to an outcome.
        shared: what all have in common; its arrays are not copied.
        items: what differs.
        name: of the work, for messages.
        gpu: share of a GPU that each task gets.

    Yields:
        Items and outcomes, as they are done.

    Raises:
        UserError: one of them was raised in a task.
        RunError: a task failed otherwise.
    """
    given = ray.put((work, shared))
    task = ray.remote(_do).options(
        num_cpus=1, num_gpus=gpu, runtime_env={"env_vars": worker_environment(1, gpu)}
    )
    waiting = {task.remote(given, item, gpu): item for item in items}
    try:
        while waiting:
            [done], _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _outcome(done, name)
    finally:
        for call in waiting:
            ray.cancel(call, force=True)


def _do(given: tuple[Callable[..., Any], Any], item: Any, gpu: float) -> Any:
    work, shared = given
    return work(shared, item, allotted_device(gpu))


def _outcome(call: Any, name: str) -> Any:
    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from error
        if isinstance(error.cause, RunError | OSError):
            raise RunError(f"{name} failed: {error.cause}") from error
        raise RunError(f"{name} failed, with an error of bebert_ray:\n{error}") from error
    except RayError as error:
        raise RunError(f"{name} failed: one of its processes died: {error}") from error
