"""The pool of workers of a run: Ray actors that run its steps, and are replaced when they die.

Members have as many workers as the cluster has room for, and the next free worker runs the next
member. A member that trains in rounds stays with its worker, which keeps it in memory. When a
worker dies nothing is lost: another one runs the step again, from its checkpoint.
"""

from __future__ import annotations

import errno
import heapq
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bebert_ray.cluster.data_parallel import (
    Group,
    GroupLost,
    group_environment,
    marked,
    remove_reservations,
)
from bebert_ray.cluster.gauges import Gauges
from bebert_ray.cluster.resources import Allotment, Allotments, last_lines, live_nodes, room
from bebert_ray.cluster.scoring import SharedScoring
from bebert_ray.cluster.worker import Worker, worker_environment
from bebert_ray.config.recipes import is_rival, kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.data.copies import COPIES, Copies
from bebert_ray.errors import Diverged, RunError, UserError, failing
from bebert_ray.pipeline.driver import found
from bebert_ray.pipeline.layout import CHECKPOINTS
from bebert_ray.pipeline.members import keep_weights
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Artifact, Miss, discard_below, exists, sweep
from bebert_ray.training.checkpoints import STATE
from bebert_ray.training.work import Logits

POLL = 0.5  # seconds between looks at the workers
RECOUNT = 5.0  # seconds between looks at the cluster
PATIENCE = 60.0  # seconds that a worker may wait for room, or start, before a note is shown
BEAT = 30.0  # seconds between two signs of life of a worker, if resources.patience allows
LOG_LINES = 20
LAST = 10**6  # the place in the queue of what no member waits for

Kind = Literal["member", "trunk", "stage", "group"]
"""What a worker is for: members and their baselines, the stages of one of several trunks, the
stages that all have in common, or stages that several processes train together."""

Advance = Callable[[Step, Artifact, Logits, bool], list[Step]]
"""From a finished step, its artifact and logits, and whether it was run now, to the steps due."""


class Pool:
    """Runs steps on workers, as many at once as the cluster has room for.

    Args:
        prepared: the run.
        splits: its examples by split.
        allotments: what the worker of a stage, and of a member, gets of the cluster.
        board: shows and records the events.
        worker: the class of the actors; `cluster.worker.Worker`, or one of the same methods.
        copies: augmented copies of the examples of train, if there are any.

    Attributes:
        started: how many steps were given to workers.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        allotments: Allotments,
        board: Board,
        worker: type = Worker,
        copies: Copies | None = None,
    ):
        self._prepared, self._columns, self._copies = prepared, splits, copies
        self._allotments, self._board, self._worker = allotments, board, worker
        self._gauges = Gauges(str(prepared.directory))
        self._slots: list[_Slot] = []
        self._waiting: list[_Ready] = []
        self._busy: dict[Any, _Slot] = {}  # by Ray's reference to the call
        self._restarts: Counter[tuple[str, bool]] = Counter()
        self._ended: list[Allotment] = []  # of groups
        self._queue: Queue | None = None
        self.started = 0
        self._room, self._counted = allotments.in_flight, time.monotonic()

    def run(self, steps: list[Step], advance: Advance) -> None:
        """Run steps, and those that follow from them, until none is due.

        A step whose artifact is there already is not run again.

        Args:
            steps: the first ones.
            advance: tells which steps are due once one is done.

        Raises:
            RunError: a step failed; the message names the step and the reason.
        """
        self._enqueue(steps, advance)
        while self._waiting or self._busy:
            self._assign()
            if self._busy:
                done, _ = ray.wait(list(self._busy), timeout=POLL)
            else:  # the cluster has no room at all
                done = []
                time.sleep(POLL)
            self._read_events()
            for call in done:
                self._finish(call, advance)
            self._replace_hung(advance)
            self._recount()
        self._read_events()
        discard_below(self._prepared.directory / CHECKPOINTS, (STATE,))
        sweep(self._prepared.directory)  # drafts of processes that died

    def stop(self) -> None:
        """End all workers, and free what they hold of the cluster."""
        for slot in list(self._slots):
            self._stop(slot)
        if self._queue is not None:
            with suppress(RayError):
                self._queue.shutdown(force=True)
            self._queue = None

    def report(self, event: dict[str, Any]) -> None:
        """Show an event and record it."""
        self._board.show(event)
        self._gauges.show(event)

    @cached_property
    def _splits(self) -> Any:
        # numpy arrays are read by every worker of a machine from one shared copy.
        arrays = {name: columns.to_arrays() for name, columns in self._columns.items()}
        if self._copies is not None:
            arrays[COPIES] = self._copies.to_arrays()
        return ray.put(arrays)

    @property
    def _events(self) -> Queue:
        # On the driver's machine. If its process dies Ray starts it again: the events that it held
        # are lost, the training goes on.
        if self._queue is None:
            here = ray.get_runtime_context().get_node_id()
            options = {
                "num_cpus": 0,
                "max_restarts": -1,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False),
            }
            self._queue = Queue(actor_options=options)
        return self._queue

    def _enqueue(self, steps: list[Step], advance: Advance) -> None:
        """Skip the steps that are done already, and let the others wait for a worker."""
        steps = list(steps)
        while steps:
            step = steps.pop()
            known = found(step)
            if step.member is not None:
                with failing(step.name):
                    kept = keep_weights(step, self._prepared.directory)
                if not kept and not isinstance(known, Miss):
                    self._note(step, f"weights/{step.path.name}.npy was damaged; written anew")
            if isinstance(known, Miss):
                if known.reason.startswith("damaged"):
                    self._note(step, f"{step.path} is {known.reason}; {step.name} is done again")
                heapq.heappush(self._waiting, _Ready.of(step))
            else:
                if step.kind == "member":
                    self._release(step.job)
                steps += advance(step, *known, False)

    def _release(self, job: str) -> None:
        """Free the worker that holds a member whose last round is done already."""
        for slot in self._slots:
            if slot.job == job and not slot.step:
                slot.job = ""

    def _assign(self) -> None:
        """Give waiting steps to workers, the first member first, while there are any."""
        while self._waiting and (slot := self._slot_for(self._waiting[0].step)):
            slot.step = heapq.heappop(self._waiting).step
            self.started += 1
            slot.job, slot.since, slot.at_work = slot.step.job, time.monotonic(), False
            # A group passes the splits on, and so gets the reference alone.
            splits = [self._splits] if slot.kind == "group" else self._splits
            self._busy[slot.actor.run.remote(slot.step, splits)] = slot

    def _slot_for(self, step: Step) -> _Slot | None:
        """A worker for a step: the one that holds its member, a free one, a new one.

        Else an idle one that holds a later member: the later member waits for an earlier one,
        perhaps for this.
        """
        kind = self._kind(step)
        for slot in [slot for slot in self._slots if slot.kind != kind and not slot.step]:
            if self._serves(slot, kind):
                slot.kind = kind
            else:
                self._stop(slot)  # stages and members need the same room, one after the other
        idle = [slot for slot in self._slots if not slot.step]
        for wanted in (step.job, ""):
            for slot in idle:
                if slot.job == wanted:
                    return slot
        if len(self._slots) < self._room_for(kind):
            return self._start(kind)
        if step.member is None and self._busy:
            return None  # a baseline is in no hurry
        later = [slot for slot in idle if slot.job > step.job]
        return max(later, key=lambda slot: slot.job, default=None)

    def _serves(self, slot: _Slot, kind: Kind) -> bool:
        """Whether an idle worker of another kind can do for this one: a new one takes seconds.

        One that has more memory than it needs could be in the way of others of the kind.
        """
        if "group" in (slot.kind, kind) or self._room_for(kind) > 1:
            return False
        has, needs = slot.allotment, self._allotment(kind)
        return (has.cpu, has.gpu) == (needs.cpu, needs.gpu) and has.memory >= needs.memory

    def _room_for(self, kind: Kind) -> int:
        return {"member": self._room, "trunk": self._allotments.trunks}.get(kind, 1)

    def _allotment(self, kind: Kind) -> Allotment:
        of_kind = {"member": self._allotments.member, "trunk": self._allotments.trunk}
        return of_kind.get(kind, self._allotments.stage)

    def _kind(self, step: Step) -> Kind:
        # A member's worker is free by the time of the packed model.
        if step.member is not None or step.kind == "model" or is_rival(step.name):
            return "member"
        kind = kind_of(self._prepared.config)
        stage = kind.stage(step.name)
        if self._allotments.stage_workers > 1 and stage.section is not None:
            return "group"
        return "trunk" if len(kind.trunks) > 1 and stage.parents else "stage"

    def _start(self, kind: Kind) -> _Slot:
        prepared, send = self._prepared, _EventSender(self._events)
        run = (prepared.config, prepared.task, prepared.directory)
        beat = min(BEAT, prepared.config.resources.patience / 4)
        allotment = self._allotment(kind)
        actor: Any
        if kind == "group":
            size, actor = self._allotments.stage_workers, ray.remote(Group)
            allotment = marked(allotment)
            environment = {"env_vars": group_environment(allotment.cpu, allotment.gpu)}
            handle = actor.options(num_cpus=0, runtime_env=environment).remote(
                *run, allotment, size, send, beat
            )
            slot = _Slot(handle, kind, allotment, f"{size} times {allotment}")
        else:
            actor = ray.remote(self._worker)
            handle = actor.options(
                num_cpus=allotment.cpu,
                num_gpus=allotment.gpu,
                memory=allotment.memory or None,
                runtime_env={"env_vars": worker_environment(allotment.cpu, allotment.gpu)},
            ).remote(
                *run, allotment.cpu, send, SharedScoring(allotment), gpu=allotment.gpu, beat=beat
            )
            slot = _Slot(handle, kind, allotment, str(allotment))
        self._slots.append(slot)
        return slot

    def _stop(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        ray.kill(slot.actor)
        if slot.kind == "group":
            self._ended.append(slot.allotment)
            remove_reservations(slot.allotment)

    def _read_events(self) -> None:
        """Report what workers have sent, and which of them still wait for room."""
        events: list[dict[str, Any]] = []
        if self._queue is not None:
            try:
                events = self._queue.get_nowait_batch(self._queue.qsize())
            except Empty:
                pass
            except RayError:  # its process has died; Ray starts it again
                for slot in self._slots:
                    slot.heard = time.monotonic()
        for event in events:
            for slot in self._slots:
                if slot.step and slot.job == event["stage"]:
                    slot.heard = time.monotonic()
                    if event["kind"] in ("start", "alive"):
                        slot.at_work, slot.log = True, event["log"]
                        slot.node, slot.pid = event["node"], event["pid"]
            if event["kind"] != "alive":
                self.report(event)
        for slot in self._slots:
            if slot.step and not slot.at_work and time.monotonic() - slot.since > PATIENCE:
                slot.since = float("inf")
                nodes = "; ".join(map(str, live_nodes())) or "no machine"
                self._note(slot.step, f"waits for {slot.needs}; the cluster has {nodes}")

    def _finish(self, call: Any, advance: Advance) -> None:
        """Take in the outcome of a call."""
        slot = self._busy.pop(call)
        step, slot.step = slot.step, None
        assert step is not None
        if step.kind != "round":
            slot.job = ""
        try:
            artifact, logits = ray.get(call)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, GroupLost):
                self._replace(slot, step, cause, advance)
                return
            if isinstance(cause, Diverged):
                raise Diverged(f"{step.name} diverged: {cause}") from error
            if is_out_of_memory(cause):
                raise RunError(
                    f"{step.name} failed: out of memory; give it more (resources), or a smaller "
                    "batch_size"
                ) from error
            if isinstance(cause, UserError | RunError | OSError):
                raise RunError(f"{step.name} failed: {cause}") from error
            raise RunError(f"{step.name} failed, with an error of bebert_ray:\n{error}") from error
        except RayError as error:
            self._replace(slot, step, error, advance)
            return
        if not exists(step.path):
            raise RunError(
                f"{step.name} was done, but {step.path} is not there; all machines of the cluster "
                "must share the disk of the run directory"
            )
        self.report({"kind": "done", "stage": step.job, "round": step.round_shown})
        self._enqueue(advance(step, artifact, logits, True), advance)

    def _replace_hung(self, advance: Advance) -> None:
        """Replace the workers that have begun, and give no sign of life any more."""
        patience, now = self._prepared.config.resources.patience, time.monotonic()
        for call, slot in list(self._busy.items()):
            if not slot.at_work or now - slot.heard <= patience:
                continue
            step, slot.step = self._busy.pop(call).step, None
            assert step is not None
            process = f"process {slot.pid} on {slot.node}"
            reason = f"{process} gave no sign of life for {patience:g} s (resources.patience)"
            self._note(step, f"{reason}; it is replaced")
            if slot.node == socket.gethostname():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(slot.pid, signal.SIGKILL)  # what is stopped cannot end itself
            self._replace(slot, step, TimeoutError(reason), advance)

    def _replace(self, slot: _Slot, step: Step, error: Exception, advance: Advance) -> None:
        """Stop a worker that is lost, and run its step again, unless it was done."""
        self._stop(slot)
        # A worker that was placed on a lost machine, and never began, has not failed at the step.
        case = (step.name, slot.at_work)
        self._restarts[case] += 1
        count, limit = self._restarts[case], self._prepared.config.resources.max_restarts
        reason = _reason(error)
        if count > limit:
            log = "\n".join(f"  {line}" for line in last_lines(slot.log, slot.node, LOG_LINES))
            raise RunError(
                f"{step.name} failed: its process {slot.pid or ''} on {slot.node or 'no machine'} "
                f"died, after {limit} restarts (resources.max_restarts): {reason}\n"
                f"the last lines of its log:\n{log or '  (gone with the machine)'}\n"
                "what was finished before is kept; give the same command again to go on"
            ) from error
        self.report(
            {
                "kind": "restart",
                "stage": step.job,
                "node": slot.node,
                "reason": reason,
                "attempt": count,
                "limit": limit,
            }
        )
        self._enqueue([step], advance)

    def _recount(self) -> None:
        """Follow a cluster that grows or shrinks.

        On one that shrinks, a worker may wait for room that another worker holds, which itself
        waits for the member that the first one is to train. The step of the first goes back to the
        queue: `_slot_for` then finds the other.
        """
        if time.monotonic() - self._counted < RECOUNT:
            return
        self._counted = time.monotonic()
        for allotment in self._ended:
            remove_reservations(allotment)  # a controller may live on for some seconds, and reserve
        self._room = min(self._allotments.together, room(live_nodes(), self._allotments.member))
        for call, slot in list(self._busy.items()):
            if slot.kind == "member" and not slot.at_work and len(self._slots) > self._room:
                del self._busy[call]
                assert slot.step is not None
                heapq.heappush(self._waiting, _Ready.of(slot.step))
                self._stop(slot)

    def _note(self, step: Step, text: str) -> None:
        self.report({"kind": "note", "stage": step.job, "text": text})


@dataclass(eq=False)
class _Slot:
    """A worker as the pool sees it.

    Attributes:
        actor: Ray's handle.
        kind: what it is for.
        allotment: what it, or each process of a group, has of the cluster.
        needs: that, for people.
        job: the stage or member that it holds in memory; empty if none.
        step: what it runs; None if it is idle.
        since: when it was given the step.
        at_work: whether it has begun.
        heard: when it was last heard of.
        node: the name of its machine, once it has.
        pid: its process.
        log: path of its log there.
    """

    actor: Any
    kind: Kind
    allotment: Allotment
    needs: str
    job: str = ""
    step: Step | None = None
    since: float = 0.0
    at_work: bool = False
    heard: float = 0.0
    node: str = ""
    pid: int = 0
    log: str = ""


class _Ready(NamedTuple):
    """A step in a queue: shared stages, members in order, the earlier round first, baselines."""

    member: int
    round: int
    name: str
    step: Step

    @classmethod
    def of(cls, step: Step) -> _Ready:
        member = step.member
        if member is None:
            member = LAST if step.kind == "model" or is_rival(step.name) else -1
        return cls(member, step.round, step.name, step)


class _EventSender:
    """Sends events to the driver. One that is lost must not stop a training."""

    def __init__(self, events: Queue):
        self._events = events

    def __call__(self, event: dict[str, Any]) -> None:
        with suppress(RayError):
            self._events.put(event)


def is_out_of_memory(error: object) -> bool:
    """Whether an error says that memory ran out: of Python, torch or the system.

    Examples:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
        >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        False
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    signs = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


def _reason(error: Exception) -> str:
    """The line of Ray's message that tells why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = [line for line in lines if "because" in line or "exit type" in line or "memory" in line]
    return (why or lines or [type(error).__name__])[0][:500]
