"""How many CPUs this process may use: fewer than the machine has, in a container or a batch job."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bebert_ray.errors import UserError

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
PER_CPU = 8
"""How many CPUs a Ray of this machine may count for each that there is."""


def check_cpus(wanted: int | None) -> None:
    """Refuse a Ray of far more CPUs than the machine has: each worker would get next to nothing.

    Args:
        wanted: `resources.num_cpus`, which means nothing where RAY_ADDRESS names a cluster.

    Raises:
        UserError: they are more than `PER_CPU` for each CPU.
    """
    there = os.cpu_count() or 1
    if os.environ.get("RAY_ADDRESS", "local") in ("", "local") and (wanted or 0) > PER_CPU * there:
        raise UserError(
            f"resources.num_cpus = {wanted}: this machine has {there} CPUs; give at most "
            f"{PER_CPU * there}, or leave it out"
        )


def available_cpus(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """The CPUs that the affinity of this process and the quotas of its control groups leave it.

    Ray counts those of the machine, unless it runs in a container that it knows. Of a quota such as
    2.5 CPUs, 2 are counted; at least 1.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that names those of this process.
    """
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1e9)
    cpus = min(cpus, os.cpu_count() or 1)
    for line in _lines(own):
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        place = PurePosixPath("/", name.lstrip("/"))
        # In a container the group is mounted as the root, and its name leads nowhere.
        for group in (place, *place.parents):
            cpus = min(cpus, _quota(root / str(group).lstrip("/")))
    return max(1, math.floor(cpus))


def _quota(group: Path) -> float:
    """The CPUs that a control group has: cgroup v2 has `cpu.max`, v1 two files."""
    limits = " ".join(_lines(group / "cpu.max")).split() or [
        *_lines(group / "cpu.cfs_quota_us"),
        *_lines(group / "cpu.cfs_period_us"),
    ]
    with suppress(ValueError, ZeroDivisionError, IndexError):
        quota = float(limits[0]) / float(limits[1])
        return quota if quota > 0 else math.inf  # -1: none
    return math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
