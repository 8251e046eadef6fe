"""The workers of a run: Ray actors that take its steps, and are replaced when they die.

Members have as many workers as the cluster has room for, and a member goes to the next that is
free. One that trains in rounds stays with its worker, which has it in memory. Who dies takes
nothing along: the step is taken again, from its checkpoint, by another.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bebert_ray.cluster.data_parallel import Group, GroupLost, group_environment
from bebert_ray.cluster.gauges import Gauges
from bebert_ray.cluster.resources import Allotments, last_lines, live_nodes, room
from bebert_ray.cluster.scoring import SharedScoring
from bebert_ray.cluster.worker import Worker, worker_environment
from bebert_ray.config.recipes import MODEL, kind_of
from bebert_ray.data.columns import Columns
from bebert_ray.errors import Diverged, RunError, UserError
from bebert_ray.pipeline.driver import Walk, found
from bebert_ray.pipeline.layout import CHECKPOINTS
from bebert_ray.pipeline.members import keep_weights
from bebert_ray.pipeline.prepare import Prepared
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Miss, exists, remove, sweep

POLL = 0.5  # seconds between looks at the workers
RECOUNT = 5.0  # seconds between looks at the cluster
PATIENCE = 60.0  # seconds that a worker may wait for its room, or start, before people are told
LOG_LINES = 20

Kind = Literal["member", "stage", "group"]
"""What a worker is for: members, shared stages, or those that several processes take together."""


class Crew:
    """Has the steps of a run taken by workers.

    Args:
        prepared: the run.
        splits: its examples by split.
        allotments: what the worker of a stage, and of a member, gets of the cluster.
        board: shows the progress.

    Attributes:
        taken: how many steps workers have taken up.
    """

    def __init__(
        self,
        prepared: Prepared,
        splits: dict[str, Columns],
        allotments: Allotments,
        board: Board,
    ):
        self._prepared, self._columns = prepared, splits
        self._allotments, self._board = allotments, board
        self._gauges = Gauges(str(prepared.directory))
        self._hands: list[_Hand] = []
        self._waiting: list[_Ready] = []
        self._busy: dict[Any, _Hand] = {}  # by Ray's reference to the call
        self._restarts: Counter[tuple[str, bool]] = Counter()
        self.taken = 0
        self._room, self._counted = allotments.in_flight, time.monotonic()

    def do(self, run: Walk) -> None:
        """Take all steps of a run that are not done yet.

        Raises:
            RunError: a step failed; the message says which, and why.
        """
        self._offer(run, run.start())
        while self._waiting or self._busy:
            self._assign()
            if self._busy:
                done, _ = ray.wait(list(self._busy), timeout=POLL)
            else:  # the cluster has no room at all
                done = []
                time.sleep(POLL)
            self._listen()
            for call in done:
                self._finish(run, call)
            self._recount()
        self._listen()
        remove(self._prepared.directory / CHECKPOINTS)
        sweep(self._prepared.directory)  # what processes that died were about to write

    def disband(self) -> None:
        """Let all workers go, and with them what they hold of the cluster."""
        for hand in list(self._hands):
            self._dismiss(hand)

    def report(self, event: dict[str, Any]) -> None:
        """Show an event and record it."""
        self._board.show(event)
        self._gauges.show(event)

    @cached_property
    def _splits(self) -> Any:
        # numpy arrays are read by every worker of a machine from one shared copy.
        return ray.put({name: columns.to_arrays() for name, columns in self._columns.items()})

    @cached_property
    def _events(self) -> Queue:
        # Beside the driver: it lives as long as somebody listens.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def _offer(self, run: Walk, steps: list[Step]) -> None:
        """Take in what is done already of the steps that are due, and of those after them."""
        while steps:
            step = steps.pop()
            known = found(step)
            if step.member is not None:
                kept = keep_weights(step, self._prepared.directory)
                if not kept and not isinstance(known, Miss):
                    self._note(step, f"weights/{step.path.name}.npy was damaged; written anew")
            if isinstance(known, Miss):
                if known.reason.startswith("damaged"):
                    self._note(step, f"{step.path} is {known.reason}; {step.name} is done again")
                heapq.heappush(self._waiting, _Ready.of(step))
            else:
                if step.stage == "member":
                    self._release(step.trainee)
                steps += run.advance(step, *known, new=False)

    def _release(self, trainee: str) -> None:
        """Free who waits for a member's next round: it is there, only an earlier one was not."""
        for hand in self._hands:
            if hand.trainee == trainee and not hand.step:
                hand.trainee = ""

    def _assign(self) -> None:
        """Give waiting steps to workers, the first member first, while there are any."""
        while self._waiting and (hand := self._hand_for(self._waiting[0].step)):
            hand.step = heapq.heappop(self._waiting).step
            self.taken += 1
            hand.trainee, hand.since, hand.at_work = hand.step.trainee, time.monotonic(), False
            # A group passes the splits on, and so gets no more of them than the reference.
            splits = [self._splits] if hand.kind == "group" else self._splits
            self._busy[hand.actor.take.remote(hand.step, splits)] = hand

    def _hand_for(self, step: Step) -> _Hand | None:
        """A worker for a step: the one that has its trainee, a free one, a new one.

        Else one that waits with a later member in memory: that one waits for a member before it,
        perhaps for this.
        """
        kind = self._kind(step)
        for hand in [hand for hand in self._hands if hand.kind != kind and not hand.step]:
            self._dismiss(hand)  # stages and members take turns: one needs the other's room
        idle = [hand for hand in self._hands if not hand.step]
        for wanted in (step.trainee, ""):
            for hand in idle:
                if hand.trainee == wanted:
                    return hand
        if len(self._hands) < (self._room if kind == "member" else 1):
            return self._hire(kind)
        later = [hand for hand in idle if hand.trainee > step.trainee]
        return max(later, key=lambda hand: hand.trainee, default=None)

    def _kind(self, step: Step) -> Kind:
        if step.member is not None or step.stage == MODEL:  # which a member's worker is free for
            return "member"
        trains = kind_of(self._prepared.config).stage(step.stage).section is not None
        return "group" if self._allotments.stage_workers > 1 and trains else "stage"

    def _hire(self, kind: Kind) -> _Hand:
        prepared, post = self._prepared, _Post(self._events)
        run = (prepared.config, prepared.task, prepared.checkpoint, prepared.directory)
        allotment = self._allotments.member if kind == "member" else self._allotments.stage
        actor: Any
        if kind == "group":
            size, actor = self._allotments.stage_workers, ray.remote(Group)
            environment = {"env_vars": group_environment(allotment.cpu)}
            handle = actor.options(num_cpus=0, runtime_env=environment).remote(
                *run, allotment, size, post
            )
            hand = _Hand(handle, kind, f"{size} times {allotment}")
        else:
            actor = ray.remote(Worker)
            handle = actor.options(
                num_cpus=allotment.cpu,
                num_gpus=allotment.gpu,
                memory=allotment.memory or None,
                runtime_env={"env_vars": worker_environment(allotment.cpu)},
            ).remote(*run, allotment.cpu, post, SharedScoring(allotment))
            hand = _Hand(handle, kind, str(allotment))
        self._hands.append(hand)
        return hand

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        ray.kill(hand.actor)

    def _listen(self) -> None:
        """Pass on what workers report, and what there is to say of those that do not."""
        for event in self._events.get_nowait_batch(self._events.qsize()):
            if event["kind"] == "start":
                for hand in self._hands:
                    if hand.step and hand.trainee == event["stage"]:
                        hand.at_work, hand.log = True, event["log"]
                        hand.node, hand.pid = event["node"], event["pid"]
            self.report(event)
        for hand in self._hands:
            if hand.step and not hand.at_work and time.monotonic() - hand.since > PATIENCE:
                hand.since = float("inf")
                nodes = "; ".join(map(str, live_nodes())) or "no machine"
                self._note(hand.step, f"waits for {hand.needs}; the cluster has {nodes}")

    def _finish(self, run: Walk, call: Any) -> None:
        """Take in what a call has come to."""
        hand = self._busy.pop(call)
        step, hand.step = hand.step, None
        assert step is not None
        if step.stage != "round":
            hand.trainee = ""
        try:
            artifact, logits = ray.get(call)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, GroupLost):
                self._replace(run, hand, step, cause)
                return
            if isinstance(cause, Diverged):
                raise Diverged(f"{step.name} diverged: {cause}") from error
            if isinstance(cause, UserError | RunError | OSError):
                raise RunError(f"{step.name} failed: {cause}") from error
            raise RunError(f"{step.name} failed, with a mistake of ours:\n{error}") from error
        except RayError as error:
            self._replace(run, hand, step, error)
            return
        if not exists(step.path):
            raise RunError(
                f"{step.name} was done, but {step.path} is not there; all machines of the cluster "
                "must share the disk of the run directory"
            )
        self.report({"kind": "done", "stage": step.trainee, "round": step.round_shown})
        self._offer(run, run.advance(step, artifact, logits))

    def _replace(self, run: Walk, hand: _Hand, step: Step, error: Exception) -> None:
        """A worker has died, or cannot be reached: its step is for the next, unless it was done."""
        self._dismiss(hand)
        # Who was placed on a machine that had gone, and never began, has not failed at the step.
        case = (step.name, hand.at_work)
        self._restarts[case] += 1
        count, limit = self._restarts[case], self._prepared.config.resources.max_restarts
        reason = _reason(error)
        if count > limit:
            log = "\n".join(f"  {line}" for line in last_lines(hand.log, hand.node, LOG_LINES))
            raise RunError(
                f"{step.name} failed: its process {hand.pid or ''} on {hand.node or 'no machine'} "
                f"died, after {limit} restarts (resources.max_restarts): {reason}\n"
                f"the last lines of its log:\n{log or '  (gone with the machine)'}\n"
                "what was finished before is kept; give the same command again to go on"
            ) from error
        self.report(
            {
                "kind": "restart",
                "stage": step.trainee,
                "node": hand.node,
                "reason": reason,
                "attempt": count,
                "limit": limit,
            }
        )
        self._offer(run, [step])

    def _recount(self) -> None:
        """Follow a cluster that grows or shrinks.

        On one that shrinks, a worker may wait for room that another has, which waits for the member
        that the first was hired for. Their step goes back: `_hand_for` then finds the other.
        """
        if time.monotonic() - self._counted < RECOUNT:
            return
        self._counted = time.monotonic()
        self._room = min(self._allotments.together, room(live_nodes(), self._allotments.member))
        for call, hand in list(self._busy.items()):
            if hand.kind == "member" and not hand.at_work and len(self._hands) > self._room:
                del self._busy[call]
                assert hand.step is not None
                heapq.heappush(self._waiting, _Ready.of(hand.step))
                self._dismiss(hand)

    def _note(self, step: Step, text: str) -> None:
        self.report({"kind": "note", "stage": step.trainee, "text": text})


@dataclass(eq=False)
class _Hand:
    """A worker as the crew sees it.

    Attributes:
        actor: Ray's handle.
        kind: what it is for.
        needs: what it has of the cluster, for people.
        trainee: what it has in memory; empty if nothing.
        step: what it is to do; None if it is idle.
        since: when it was told so.
        at_work: whether it has begun.
        node: the name of its machine, once it has.
        pid: its process.
        log: path of its log there.
    """

    actor: Any
    kind: Kind
    needs: str
    trainee: str = ""
    step: Step | None = None
    since: float = 0.0
    at_work: bool = False
    node: str = ""
    pid: int = 0
    log: str = ""


class _Ready(NamedTuple):
    """A step in a queue: members in order, the earlier round first."""

    member: int
    round: int
    name: str
    step: Step

    @classmethod
    def of(cls, step: Step) -> _Ready:
        return cls(-1 if step.member is None else step.member, step.round, step.name, step)


class _Post:
    """Sends events to the driver; a lost one is no reason to stop a training."""

    def __init__(self, events: Queue):
        self._events = events

    def __call__(self, event: dict[str, Any]) -> None:
        with suppress(RayError):
            self._events.put(event)


def _reason(error: Exception) -> str:
    """The line of Ray's message that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = [line for line in lines if "because" in line or "exit type" in line or "memory" in line]
    return (why or lines or [type(error).__name__])[0][:500]
