"""The Ray cluster: connecting to it, and what each worker gets of it."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import torch
from ray.exceptions import RayError
from ray.util.state import get_log

from bebert_ray.cluster.cpus import available_cpus, check_cpus
from bebert_ray.cluster.local import joined, local_ray
from bebert_ray.cluster.watch import Lifeline, watched
from bebert_ray.config import Config, ResourcesConfig
from bebert_ray.config.schema import MemberResources, StageResources
from bebert_ray.errors import RunError, UserError
from bebert_ray.paths import hidden
from bebert_ray.pipeline.memory import EncoderShape, member_memory, stage_memory
from bebert_ray.pipeline.resources import Allotment, Allotments, Node

MEMBERS_PER_GPU = 4  # more would wait for each other, and for the memory of the GPU
HEAD_PATIENCE = 40.0  # seconds; after 60 without a head Ray ends the process
OWN_PATIENCE = 5.0  # seconds, of a process on this machine; what has died does not come back
PROBE_SECONDS = 5.0
"""How long a cluster may take to accept a connection."""


@contextmanager
def connected(resources: ResourcesConfig) -> Iterator[list[Node]]:
    """A Ray to work with, and its live machines.

    It is the Ray that this process is connected to already, and stays so; else the cluster that
    RAY_ADDRESS names, as in a Ray job; else a Ray of this machine, for as long as the context
    lasts. Works off the main thread too.

    Raises:
        UserError: the cluster does not answer.
        RunError: it broke down later.
    """
    if ray.is_initialized():
        with watched(_lifelines()), _run_errors():
            yield live_nodes()
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    check_cpus(resources.num_cpus)
    verbose = logging.getLogger("bebert_ray").isEnabledFor(logging.DEBUG)
    options: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": "info" if verbose else "error",
    }
    with ExitStack() as stack:
        try:
            if address == "local":
                ray_of_ours = local_ray(**_shares(resources), **options)
            else:
                ray_of_ours = joined(address, _probe(address), **options)
            with _own_handler(signal.SIGTERM):
                stack.enter_context(ray_of_ours)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            if address == "local":
                raise UserError(f"Ray cannot start on this machine: {str(error)[:300]}") from error
            raise UserError(
                f"Ray at {hidden(address)[:100]} cannot be used: {str(error)[:250]}; set "
                "RAY_ADDRESS to a running cluster, or unset it to use this machine alone"
            ) from error
        patience = OWN_PATIENCE if address == "local" else HEAD_PATIENCE
        with watched(_lifelines(patience)), _run_errors():
            yield live_nodes()


def _shares(resources: ResourcesConfig) -> dict[str, Any]:
    """What a Ray of this machine may use of it."""
    # Ray sees GPUs also where the installed torch can use none.
    gpus, cpus = torch.cuda.device_count(), resources.num_cpus or available_cpus()
    return {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False}


def _lifelines(patience: float = HEAD_PATIENCE) -> list[Lifeline]:
    """The head, which may be away for `patience` seconds, and the raylet of this machine."""
    if ray.util.client.ray.is_connected():
        return []  # both are elsewhere; Ray tells when its server is gone
    context = ray.get_runtime_context()
    here = context.get_node_id()
    raylets = [
        f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        for node in ray.nodes()
        if node["NodeID"] == here
    ]
    return [
        Lifeline("the head of Ray", context.gcs_address, patience),
        *(Lifeline("the raylet of this machine", each, OWN_PATIENCE) for each in raylets),
    ]


@contextmanager
def _run_errors() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        raise RunError(
            f"Ray failed: {str(error)[:300]}\n"
            "what was finished is kept; give the same command again to go on"
        ) from error


def allot(
    config: Config, nodes: list[Node], runs: int = 1, shape: EncoderShape | None = None
) -> Allotments:
    """Divide the cluster: as configured, else a machine for a stage and fair shares for members.

    The processes that train a stage together get as many CPUs each as leave room for all of them.
    Where the cluster has GPUs, each process of a stage gets one, unless there are fewer; members
    share them, at most `MEMBERS_PER_GPU` one GPU.

    Args:
        config: of a run.
        nodes: the machines.
        runs: how many such runs share them.
        shape: of the encoder; None: memory is asked for only as configured.

    Raises:
        UserError: a worker fits on no machine, or not all processes of a stage at once.
    """
    wanted, largest = config.resources, max(node.cpu for node in nodes)
    workers = wanted.stage_workers
    cpus = [wanted.stage.cpu] if wanted.stage.cpu else range(max(1, largest), 0, -1)
    together, trunks = members_together(config), config.ensemble.trunks
    needed = member_memory(config, shape) if shape else 0.0
    memory = wanted.stage.memory or (stage_memory(config, shape) if shape else 0.0)
    configured = wanted.stage.memory or wanted.member.memory
    if (
        workers == together == trunks == 1
        and not configured
        and needed <= max(each.memory for each in nodes)
    ):
        memory = max(memory, needed)  # one worker can then do all steps
    gpu = wanted.stage.gpu
    if gpu is None:
        gpu = float(room(nodes, Allotment(1, 1.0)) >= workers)
    choices = [Allotment(cpu, gpu, memory) for cpu in cpus]
    stage = next((each for each in choices if room(nodes, each) >= workers), choices[-1])
    member = _shared_out(wanted.member, nodes, together * runs, needed)
    trunk = _shared_out(wanted.stage, nodes, trunks * runs, memory)
    machines = "; ".join(map(str, nodes))
    for name, need in (("stage", stage), ("member", member)):
        if not any(node.holds(need) for node in nodes):
            raise UserError(
                f"resources.{name}: {need} fit on no machine of the cluster ({machines}); "
                "ask for less"
            )
    if room(nodes, stage) < workers:
        raise UserError(
            f"resources.stage_workers: the cluster ({machines}) has no room for {workers} "
            f"processes of {stage} at once, but for {room(nodes, stage)}; ask for fewer or for less"
        )
    in_flight = min(together, room(nodes, member))
    beside = max(1, min(trunks, room(nodes, trunk)))
    return Allotments(stage, member, together, in_flight, workers, trunk, beside)


def _shared_out(
    wanted: MemberResources | StageResources, nodes: list[Node], together: int, memory: float
) -> Allotment:
    """What a member, or a stage of one of several trunks, gets if so many train at once.

    Args:
        wanted: as configured.
        nodes: the machines.
        together: how many.
        memory: bytes that it needs, unless they are configured.
    """
    # Members with GPUs find room only on machines with GPUs.
    usable = [node for node in nodes if wanted.gpu != 0 and node.gpu and node.cpu] or nodes
    # Members on one machine, if they spread evenly over as many machines as there are.
    neighbours = math.ceil(min(together, sum(node.cpu for node in usable)) / len(usable))
    gpu = wanted.gpu
    if gpu is None:
        fewest = min(int(node.gpu) for node in usable)
        sharing = math.ceil(neighbours / fewest) if fewest else 0
        # Rounded down: Ray counts in parts of 10,000.
        gpu = math.floor(1e4 / min(sharing, MEMBERS_PER_GPU)) / 1e4 if sharing else 0.0
    return Allotment(
        wanted.cpu or max(1, max(node.cpu for node in usable) // max(1, neighbours)),
        gpu,
        wanted.memory or memory,
    )


def live_nodes() -> list[Node]:
    """The machines that the cluster has now."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(r.get("CPU", 0)), r.get("GPU", 0), r.get("memory", 0)) for r in alive]


def room(nodes: list[Node], need: Allotment) -> int:
    """How many workers fit on the machines."""
    return sum(node.holds(need) for node in nodes)


def last_lines(log: str, node: str, count: int) -> list[str]:
    """The last lines that a worker, dead or alive, has written; none if they cannot be had.

    Args:
        log: path of its log.
        node: name of its machine.
        count: how many lines.
    """
    path = Path(log)
    try:
        if node == socket.gethostname():
            return path.read_text(errors="replace").splitlines()[-count:]
        addresses = {n["NodeManagerHostname"]: n["NodeManagerAddress"] for n in ray.nodes()}
        parts = get_log(node_ip=addresses[node], filename=path.name, tail=count)
        return "".join(parts).splitlines()
    except Exception:  # the machine is gone, or the cluster has no such service
        return []


def members_together(config: Config) -> int:
    """How many members, or folds of one, need not wait for each other."""
    ensemble = config.ensemble
    if ensemble.schedule == "sequential":
        return 1 + len(ensemble.fold_numbers)
    return ensemble.members


def _probe(address: str) -> str | None:
    """Try the port: left alone, Ray waits for minutes for a cluster that is not there.

    Returns:
        HOST:PORT of the head, if the address names it.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if not (parts.hostname and parts.port):
        return None
    socket.create_connection((parts.hostname, parts.port), PROBE_SECONDS).close()
    return None if "://" in address else address


@contextmanager
def _own_handler(number: signal.Signals) -> Iterator[None]:
    """Put our handler of a signal back: `ray.init` sets its own, which exits right away."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    handler = signal.getsignal(number)
    try:
        yield
    except SystemExit:  # so it did
        signal.signal(number, handler)
        signal.raise_signal(number)
        raise
    finally:
        signal.signal(number, handler)
