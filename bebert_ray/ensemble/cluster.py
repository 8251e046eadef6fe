"""The Ray cluster: connecting to it, and what each worker gets of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from bebert_ray.config import Config, ResourcesConfig
from bebert_ray.errors import UserError


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has; `memory` in bytes."""

    cpu: int
    gpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.cpu} CPUs, {self.gpu:g} GPUs, {self.memory / 1e9:.1f} GB"

    def holds(self, need: Allotment) -> int:
        """How many workers fit on the machine."""
        limits = [self.cpu // need.cpu]
        if need.gpu:
            limits.append(int(self.gpu / need.gpu))
        if need.memory:
            limits.append(int(self.memory / need.memory))
        return min(limits)


@dataclass(frozen=True)
class Allotment:
    """What a worker gets: whole CPUs (threads), a GPU or a share of one, bytes of memory."""

    cpu: int
    gpu: float = 0.0
    memory: float = 0.0

    def __str__(self) -> str:
        gpu = f", {self.gpu:g} GPU" if self.gpu else ""
        memory = f", {self.memory / 1e9:.1f} GB" if self.memory else ""
        return f"{self.cpu} CPU{'s' * (self.cpu > 1)}{gpu}{memory}"


@dataclass(frozen=True)
class Allotments:
    """What a shared stage and what a member gets, and how many members train at the same time."""

    stage: Allotment
    member: Allotment
    in_flight: int


@contextmanager
def connected(resources: ResourcesConfig) -> Iterator[list[Node]]:
    """A Ray to work with, and its live machines.

    It is the cluster that RAY_ADDRESS names, as in a Ray job, or else one of our own for as long as the
    context lasts.

    Raises:
        UserError: the cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        options |= {"num_cpus": resources.num_cpus, "include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Ray at {address or 'this machine'} does not answer: {error}; "
            "check RAY_ADDRESS, or unset it to use this machine alone"
        ) from error
    try:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [Node(int(r.get("CPU", 0)), r.get("GPU", 0), r.get("memory", 0)) for r in alive]
    finally:
        ray.shutdown()


def allot(config: Config, nodes: list[Node]) -> Allotments:
    """Divide the cluster: as configured, else all of a machine for a stage and fair shares for members.

    Raises:
        UserError: a worker fits on no machine.
    """
    wanted, largest = config.resources, max(node.cpu for node in nodes)
    stage = Allotment(wanted.stage.cpu or max(1, largest), wanted.stage.gpu)
    together = members_together(config)
    # Members on one machine, if they spread evenly over as many machines as there are.
    neighbours = math.ceil(min(together, sum(node.cpu for node in nodes)) / len(nodes))
    member = Allotment(
        wanted.member.cpu or max(1, largest // max(1, neighbours)),
        wanted.member.gpu,
        wanted.member.memory,
    )
    for name, need in (("stage", stage), ("member", member)):
        if not any(node.holds(need) for node in nodes):
            raise UserError(
                f"resources.{name}: {need} fit on no machine of the cluster "
                f"({'; '.join(map(str, nodes))}); ask for less"
            )
    room = sum(node.holds(member) for node in nodes)
    return Allotments(stage, member, min(together, room))


def members_together(config: Config) -> int:
    """How many members, or folds of one, have no need to wait for each other."""
    ensemble = config.ensemble
    if ensemble.schedule == "parallel":
        return ensemble.members
    return 1 + (ensemble.folds if ensemble.errors == "out_of_fold" else 0)
