"""The model on Ray Serve: a deployment of replicas, each a process that scores batches.

Ray Serve places the replicas, replaces those that die, adds and removes some as requests come, and
sends each row to one that has room. What it does not do is to send a row again that a replica had
when it died: `Replicas.score` does. To score has no side effect, so that twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from bebert_ray.cluster.worker import worker_environment
from bebert_ray.errors import RunError, UserError
from bebert_ray.scoring.classifier import Classifier, read_card
from bebert_ray.serving.rows import Refused, Row, score_rows
from bebert_ray.storage import Location

ATTEMPTS = 6
"""How often a row is sent in all: a row that kills replicas must not kill all that follow."""
PAUSE = 0.3
"""Seconds before a row is sent again, doubled each time: 9.3 s in all. Until it is told of it, the
router sends rows to a dead replica."""
BATCH_SECONDS = 0.01
"""How long a row waits for others to share its batch."""

_DEPLOYMENT = "model"


Settings = tuple[str, str, int, bool]
"""Of a `Replica`, in the order of its arguments."""


class Replica:
    """A process with the model. Rows that come together share a batch.

    Args:
        model: Its directory, a path or a URI.
        digest: That of its `Card`.
        batch_size: The most rows of a batch.
        cascade: Whether members are asked one after another.

    Raises:
        UserError: It cannot be loaded, or is another model now.
    """

    def __init__(self, model: str, digest: str, batch_size: int, cascade: bool):
        torch.set_num_threads(1)
        place = Location.parse(model)
        if read_card(place).digest != digest:
            raise UserError(f"{place} has changed since the service started; start it again")
        self._classifier = Classifier(place, batch_size, cascade)
        batched: Any = self.score
        batched.set_max_batch_size(batch_size)

    @serve.batch(batch_wait_timeout_s=BATCH_SECONDS)
    async def score(self, rows: list[Row]) -> list[list[float] | str]:
        """The scores of each row, see `score_rows`."""
        return await asyncio.to_thread(score_rows, self._classifier, rows)


class Replicas:
    """The running replicas of a model."""

    def __init__(self, name: str, handle: Any):
        self._name = name
        self._handle = handle

    async def score(self, row: Row) -> list[float] | str:
        """The scores of a row, or why there are none; sent again if its replica dies.

        Raises:
            Refused: 503, no replica has answered.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                found: list[float] | str = await self._handle.score.remote(row)
                return found
            except RayTaskError:  # raised by the replica's code, which is alive
                raise
            except (RayError, RayServeException) as error:
                last = error
        raise Refused(503, f"{ATTEMPTS} replicas ended while they had the row") from last

    async def health(self) -> dict[str, Any]:
        """Whether there is a replica that can answer, and how many there are."""
        try:
            found = await asyncio.to_thread(serve.status)
            states = found.applications[self._name].deployments[_DEPLOYMENT].replica_states
        except (RayError, RayServeException, KeyError):
            return {"status": "unavailable", "replicas": 0}
        # The keys are an enumeration of strings, or strings: as the version of Ray has it.
        count = sum(n for state, n in states.items() if getattr(state, "value", state) == "RUNNING")
        return {"status": "ok" if count else "unavailable", "replicas": count}


@contextmanager
def running(settings: Settings, fewest: int, most: int, gpu: bool) -> Iterator[Replicas]:
    """Replicas of a model on the Ray that this process is connected to, for a while.

    Serve is started without HTTP proxies of its own if it does not run, and is then shut down
    afterwards; otherwise only this application ends.

    Args:
        settings: of the replicas.
        fewest: how many replicas there are at least.
        most: and at most.
        gpu: whether each has a GPU.

    Raises:
        RunError: the replicas do not start.
    """
    if not logging.getLogger("bebert_ray").isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    was_there, (model, _, batch_size, _) = _serve_runs(), settings
    name = f"bebert-{uuid.uuid4().hex[:8]}"
    quiet = {"enable_access_log": False}
    deployment = serve.deployment(
        name=_DEPLOYMENT,
        num_replicas=fewest if fewest == most else None,
        autoscaling_config=None
        if fewest == most
        else {
            "min_replicas": fewest,
            "max_replicas": most,
            "initial_replicas": fewest,
            "target_ongoing_requests": batch_size,
        },
        max_ongoing_requests=2 * batch_size,  # a batch, and the next
        health_check_period_s=2,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config=quiet,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 1 if gpu else 0,
            "runtime_env": {"env_vars": worker_environment(1, gpu=1 if gpu else 0)},
        },
    )(Replica)
    try:
        try:
            serve.start(proxy_location="Disabled", logging_config=quiet)
            application = deployment.bind(*settings)
            handle = serve.run(application, name=name, route_prefix=None)
        except (RuntimeError, RayError, RayServeException) as error:
            reason = " ".join(str(error).split())[-300:]  # where a traceback tells what is wrong
            raise RunError(f"the replicas of {model} do not start: {reason}") from error
        yield Replicas(name, handle)
    finally:
        _end(name, was_there)


def _end(name: str, was_there: bool) -> None:
    """Delete the application, and end Serve if it was started for it and has no other."""
    try:
        serve.delete(name)
        if not was_there and not serve.status().applications:
            serve.shutdown()
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        logging.getLogger(__name__).warning("Ray Serve did not end %s: %s", name, error)


def _serve_runs() -> bool:
    """Whether Ray Serve runs on the cluster already."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True
