"""What machines have, and what the workers of a run get of them. No Ray here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has; `memory` in bytes."""

    cpu: int
    gpu: float
    memory: float

    def __str__(self) -> str:
        return str(Allotment(self.cpu, self.gpu, self.memory))

    def holds(self, need: Allotment) -> int:
        """How many workers fit on the machine.

        >>> Node(8, 1.0, 16e9).holds(Allotment(2, gpu=0.5, memory=1e9))
        2
        """
        limits = [self.cpu // need.cpu]
        if need.gpu:
            limits.append(int(self.gpu / need.gpu))
        if need.memory:
            limits.append(int(self.memory / need.memory))
        return min(limits)


@dataclass(frozen=True)
class Allotment:
    """What a worker gets: whole CPUs (threads), a GPU or a share of one, bytes of memory.

    >>> print(Allotment(2, gpu=0.5, memory=1.5e9))
    2 CPUs, 0.5 GPU, 1.5 GB
    """

    cpu: int
    gpu: float = 0.0
    memory: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.cpu} CPU{'' if self.cpu == 1 else 's'}"]
        if self.gpu:
            parts.append(f"{self.gpu:g} GPU{'s' if self.gpu > 1 else ''}")
        if self.memory:
            parts.append(f"{self.memory / 1e9:.1f} GB")
        return ", ".join(parts)


@dataclass(frozen=True)
class Allotments:
    """What the workers of a run get.

    Attributes:
        stage: each process of a shared stage.
        member: the process of a member.
        together: how many members or folds can train at the same time by the schedule.
        in_flight: how many of these the cluster has room for.
        stage_workers: how many processes train a shared stage together.
        trunk: the process of a stage that belongs to one of several trunks.
        trunks: how many of these train at the same time.
    """

    stage: Allotment
    member: Allotment
    together: int
    in_flight: int
    stage_workers: int = 1
    trunk: Allotment = Allotment(1)
    trunks: int = 1
