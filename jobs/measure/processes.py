"""Finds the processes that another one has started, to kill some of them."""

from __future__ import annotations

import subprocess


def descendants(root: int, *names: str) -> list[int]:
    """The processes below another one whose command lines start with one of some names, in order.

    Args:
        root: process id of the one that started them, or started those that did.
        names: as Ray gives them, such as `ray::Worker`.
    """
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    table = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in table}

    def is_below(pid: int) -> bool:
        return pid == root or (pid in parents and is_below(parents[pid]))

    pids = [int(pid) for pid, _, *args in table if args and args[0].startswith(names)]
    return sorted(filter(is_below, pids))
