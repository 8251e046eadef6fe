"""The pool on a real Ray of one CPU, with workers that train nothing."""

import io
import os
import shutil
import signal
import socket
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from bebert_ray.cluster.data_parallel import marked, remove_reservations
from bebert_ray.cluster.pool import Pool
from bebert_ray.cluster.resources import Allotment, Allotments, connected
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.errors import Diverged, RunError, UserError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Miss, commit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

LIMIT = 1  # restarts


class StubWorker:
    """Does what the step's inputs say, or else makes an artifact with logits by chance.

    A file beside the artifact says how many more times it dies before, or stops.
    """

    def __init__(self, config, task, directory, threads, report, predict, gpu, beat):
        self.threads, self.report = threads, report

    def run(self, step, splits):
        print(f"this is {step.name}", file=sys.stderr, flush=True)
        who = {"node": socket.gethostname(), "pid": os.getpid()}
        log = os.path.realpath("/proc/self/fd/2")
        self.report({"kind": "start", "stage": step.job, "log": log, **who})
        deaths = Path(step.path.path + ".deaths")
        if deaths.exists() and (left := int(deaths.read_text())):
            deaths.write_text(str(left - 1))
            print("and this its last line", file=sys.stderr, flush=True)
            draft = Path(step.path.path).with_name(f".draft.{os.getpid():032x}.tmp")
            draft.mkdir(parents=True)
            stopped = step.inputs.get("do") == "stop"
            os.kill(os.getpid(), signal.SIGSTOP if stopped else signal.SIGKILL)
        match step.inputs.get("do"):
            case "nothing":
                return None, {}
            case "full disk":
                raise OSError(28, "No space left on device")
            case "bad input":
                raise UserError("this is wrong")
            case "diverge":
                raise Diverged("the loss became nan")
            case "kill the queue":
                self.report({"kind": "note", "stage": step.job, "text": "heard before"})
                kill_queue()
            case "bug":
                raise KeyError("oops")
        self.report(
            {
                **{"kind": "progress", "stage": step.job, "round": step.round_shown},
                **{"epoch": 1, "epochs": 1, "step": 1, "steps": 1, "loss": 0.5, "score": 0.75},
                **{"learning_rate": 0.1, "examples_per_second": 9.0, "memory": 10**9},
            }
        )
        rng = np.random.default_rng(zlib.crc32(step.name.encode()))
        logits = {}
        for name, arrays in splits.items():
            labels = arrays["labels"]
            says = np.where(rng.random(len(labels)) < 0.2, 1 - labels, labels)
            logits[name] = np.eye(2, dtype=np.float32)[says]

        def write(draft):
            save_file(logits, draft / "logits.safetensors")
            return {
                "pid": os.getpid(),
                "threads": self.threads,
                "omp": os.environ["OMP_NUM_THREADS"],
                "examples": len(splits["train"]["labels"]),
            }

        return commit(step.path, step.stage, step.inputs, write), logits


def queue_pids():
    """The processes that hold the events of this session's pool: none, while one is made anew."""
    siblings = psutil.process_iter(["ppid", "cmdline"])  # of one that has just ended: no command
    return [
        process.pid
        for process in siblings
        if process.info["ppid"] == os.getppid()
        and "_QueueActor" in " ".join(process.info["cmdline"] or ())
    ]


def kill_queue():
    """End the process that holds the events, and wait for the one in its place."""
    [pid] = queue_pids()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while queue_pids() in ([], [pid]):  # Ray takes seconds on a busy machine
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Script:
    """A run whose steps are given; `then` says what each of them frees, by name."""

    def __init__(self, *first, then=None):
        self.first, self.then = list(first), then or {}
        self.done, self.made = [], {}

    def start(self):
        return self.first

    def advance(self, step, artifact, logits, new=True):
        self.done.append(step.name)
        self.made[step.name] = artifact
        return self.then.get(step.name, [])


@pytest.fixture(scope="module")
def pool(tiny_run, tmp_path_factory):
    """One pool for all tests, since the start of a worker takes seconds."""
    import ray

    output = tmp_path_factory.mktemp("pool")
    limit = f"resources.max_restarts={LIMIT}"
    prepared = prepare(load_config(None, [*tiny_run, f"output={output}", limit]))
    splits = open_run(prepared)
    allotments = Allotments(Allotment(1), Allotment(1, 0, 1e8), together=4, in_flight=1)
    with (
        pytest.MonkeyPatch.context() as patch,
        Board(output, Console(file=io.StringIO(), width=120)) as board,
    ):
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(ResourcesConfig(num_cpus=1)):
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield Pool(prepared, splits, allotments, board, StubWorker)


@pytest.fixture
def events(pool, monkeypatch):
    """What the pool reports in this test."""
    heard, report = [], pool.report
    monkeypatch.setattr(pool, "report", lambda event: (heard.append(event), report(event)))
    return heard


def steps_of(run):
    """The steps that a run, or a script of one, begins with, and what says which follow."""
    return run.start(), run.advance


def of(events, kind):
    return [event for event in events if event["kind"] == kind]


@pytest.fixture
def step(pool, request):
    """A step of this test, in a directory of its own."""
    place = pool._prepared.directory / str(zlib.crc32(request.node.name.encode()))

    def step(name, do="make", deaths=0):
        made = {"path": place / name, "checkpoints": place / "none", "inputs": {"do": do}}
        if deaths:
            place.local.mkdir(exist_ok=True)
            Path(made["path"].path + ".deaths").write_text(str(deaths))
        if not name.startswith("member"):
            return Step(name, name, "stage", **made)
        _, member, *round = name.split()
        weight = np.full((int(round[1]) + 1 if round else 2, 86), 1 / 86)
        job, kind = f"member {member}", "round" if round else "member"
        return Step(name, job, kind, **made, member=int(member), sample_weight=weight)

    return step


def pid(script, name):
    return script.made[name].facts["pid"]


# --- shared stages and failures -----------------------------------------------------------------


def test_a_stage_that_is_there_is_not_done_again(pool, step):
    first = Script(step("teacher"))
    pool.run(*steps_of(first))
    both = Script(step("teacher"), then={"teacher": [step("half")]})
    taken = pool.started
    pool.run(*steps_of(both))
    assert pool.started == taken + 1
    assert both.done == ["teacher", "half"]
    assert both.made["teacher"] == first.made["teacher"]
    assert pid(both, "half") == pid(first, "teacher"), "the shared stages share a worker"
    facts = both.made["half"].facts
    assert (facts["threads"], facts["omp"], facts["examples"]) == (1, "1", 86)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("full disk", r"^half failed: \[Errno 28\] No space left on device$"),
        ("bad input", r"^half failed: this is wrong$"),
        ("diverge", r"^half diverged: the loss became nan$"),
        ("bug", r"(?s)^half failed, with an error of bebert_ray:.*in run.*KeyError: 'oops'"),
        ("nothing", r"^half was done, but .* is not there; .* must share the disk"),
    ],
)
def test_a_failure_is_final_names_the_step_and_keeps_what_is_done(pool, step, events, do, message):
    script = Script(step("teacher"), then={"teacher": [step("half", do)]})
    with pytest.raises(RunError, match=message) as caught:
        pool.run(*steps_of(script))
    assert isinstance(caught.value, Diverged) == (do == "diverge")
    assert step("teacher").find() == script.made["teacher"]
    assert isinstance(step("half", do).find(), Miss)
    assert len(of(events, "start")) == 2, "an error would come again"
    assert of(events, "restart") == []


def test_members_get_workers_of_their_own_and_the_room_of_the_stages(pool, step, events):
    """There is one CPU: a worker that has too little must go before another can come."""
    pool.stop()
    script = Script(step("split"), then={"split": [step("member 0"), step("member 1")]})
    pool.run(*steps_of(script))
    assert script.done == ["split", "member 0", "member 1"]
    assert pid(script, "split") != pid(script, "member 0") == pid(script, "member 1")
    shown = pool._board._console.file.getvalue()
    assert "member 1: epoch 1/1  step 1/1  loss 0.5000  9 examples/s  held-out 0.7500\n" in shown
    assert [event["stage"] for event in of(events, "done")] == script.done


def test_a_worker_that_has_enough_does_the_next_kind_of_step(pool, step):
    """It saves the start of a process. A member's worker has more memory here than a stage's."""
    pool.stop()
    script = Script(step("member 0"), then={"member 0": [step("half")], "half": [step("member 1")]})
    pool.run(*steps_of(script))
    assert pid(script, "member 0") == pid(script, "half") == pid(script, "member 1")


def test_the_room_of_a_lost_group_is_freed_and_no_other(pool):
    from ray.util.placement_group import placement_group, placement_group_table

    lost = marked(Allotment(1, 0, 1e8))
    assert 1e8 - 2**16 <= lost.memory < 1e8
    groups = [placement_group([{"CPU": 1.0, "memory": m}]) for m in (lost.memory, lost.memory - 1)]
    remove_reservations(lost)
    states = [placement_group_table(group)["state"] for group in groups]
    assert states[0] == "REMOVED" != states[1]
    remove_reservations(Allotment(1, 0, lost.memory - 1))


# --- deaths -------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced(pool, step, events):
    script = Script(
        step("member 3 round 0"),
        then={"member 3 round 0": [step("member 3", deaths=1)]},
    )
    pool.run(*steps_of(script))
    first, second, third = of(events, "start")
    assert [event["stage"] for event in (first, second, third)] == ["member 3"] * 3
    assert first["pid"] == second["pid"] != third["pid"] == pid(script, "member 3")
    [restart] = of(events, "restart")
    assert restart["stage"] == "member 3"
    assert restart["node"] == socket.gethostname()
    assert (restart["attempt"], restart["limit"]) == (1, LIMIT)
    assert "died" in restart["reason"] or "SIGKILL" in restart["reason"], restart["reason"]
    shown = pool._board._console.file.getvalue()
    assert "attempt 1 of 1 goes on from its checkpoint" in shown
    place = Path(script.made["member 3"].path)
    assert place.is_dir()
    assert not list(place.parent.glob(".draft.*")), "what it was about to write is gone"


def test_deaths_are_bounded_and_the_last_one_is_told_of_with_all_that_is_known(pool, step, events):
    with pytest.raises(RunError) as caught:
        pool.run(*steps_of(Script(step("member 2 round 1", deaths=9))))
    lines = str(caught.value).splitlines()
    last = of(events, "start")[-1]
    assert lines[0].startswith(
        f"member 2 round 1 failed: its process {last['pid']} on {socket.gethostname()} died, "
        f"after {LIMIT} restarts (resources.max_restarts): "
    )
    assert lines[1] == "the last lines of its log:"
    assert "  this is member 2 round 1" in lines
    assert "  and this its last line" in lines
    assert lines[-1].endswith("give the same command again to go on")
    assert len(of(events, "start")) == 1 + LIMIT
    assert len(of(events, "restart")) == LIMIT


def test_a_worker_that_hangs_is_told_of_and_replaced(pool, step, events, monkeypatch):
    """SIGSTOP: it neither dies nor reports."""
    resources = replace(pool._prepared.config.resources, patience=1.0)
    config = replace(pool._prepared.config, resources=resources)
    monkeypatch.setattr(pool, "_prepared", replace(pool._prepared, config=config))
    script = Script(step("member 4", "stop", deaths=1))
    pool.run(*steps_of(script))
    stopped, other = of(events, "start")
    assert stopped["pid"] != other["pid"] == pid(script, "member 4")
    [note], [restart] = of(events, "note"), of(events, "restart")
    assert note["text"] == (
        f"process {stopped['pid']} on {socket.gethostname()} gave no sign of life for 1 s "
        "(resources.patience); it is replaced"
    )
    assert "no sign of life" in restart["reason"] and restart["attempt"] == 1
    assert not psutil.pid_exists(stopped["pid"]), "it would hold its memory"


def test_the_queue_of_the_events_may_die(pool, step, events):
    script = Script(
        step("member 5 round 0", "kill the queue"),
        then={"member 5 round 0": [step("member 5")]},
    )
    pool.run(*steps_of(script))
    assert script.done == ["member 5 round 0", "member 5"]
    assert pid(script, "member 5 round 0") == pid(script, "member 5"), "the worker goes on"
    assert of(events, "restart") == []
    heard = [event["stage"] for event in of(events, "progress")]
    assert "member 5" in heard, "the new one is heard"


# --- members in rounds --------------------------------------------------------------------------


def test_a_worker_that_waits_goes_to_a_member_before_its_own(pool, step):
    """Else that one, which its own may wait for, would never have the only room there is."""
    script = Script(
        step("member 1 round 0"),
        then={
            "member 1 round 0": [step("member 0 round 0")],
            "member 0 round 0": [step("member 1"), step("member 0")],
        },
    )
    pool.run(*steps_of(script))
    assert script.done == ["member 1 round 0", "member 0 round 0", "member 0", "member 1"]
    assert len({artifact.facts["pid"] for artifact in script.made.values()}) == 1


def test_a_worker_whose_member_is_done_already_goes_to_any(pool, step):
    """As when a round was lost, and the rounds after it were not."""
    pool.run(*steps_of(Script(step("member 0"))))
    script = Script(
        step("member 0 round 0"),
        then={"member 0 round 0": [step("member 0"), step("member 1")]},
    )
    pool.run(*steps_of(script))
    assert sorted(script.done) == ["member 0", "member 0 round 0", "member 1"]


PIPELINED = ["ensemble.schedule=pipelined", "ensemble.members=4", "member.epochs=2"]
STEPS = [name for i in range(4) for name in (f"member 00{i} round 0", f"member 00{i}")]


@pytest.fixture
def pipelined(pool, tiny_run):
    """Makes the same run of four members in two rounds, again and again."""
    directory = pool._prepared.directory
    config = load_config(None, [*tiny_run, f"output={directory}", *PIPELINED])
    prepared = prepare(config)

    def pipelined():
        return Run(prepared, pool._columns, pool.report)

    yield pipelined
    for name in ("members", "weights"):
        shutil.rmtree(directory.local / name, ignore_errors=True)


def outcome(run):
    members = [(member.name, member.alpha, member.error) for member in run.ensemble.members]
    weights = run.prepared.directory.local / "weights"
    return members, {path.name: path.read_bytes() for path in weights.glob("*.npy")}


def test_four_members_in_rounds_share_one_cpu_and_stay_in_their_process(pool, pipelined, events):
    pool.run(*steps_of(run := pipelined()))
    assert run.finished
    members = [event for event in of(events, "done") if event["stage"].startswith("member")]
    assert sorted((event["stage"], event["round"]) for event in members) == [
        (f"member 00{i}", round) for i in range(4) for round in (0, 1)
    ]
    pids = {member.name: member.artifact.facts["pid"] for member in run.ensemble.members}
    for event in of(events, "start"):
        if event["stage"] in pids:
            assert event["pid"] == pids[event["stage"]], "both rounds in one process"
    assert len(of(events, "boost")) == 8

    # Nothing is left to do; what is not as it was is told of, and made again.
    expected, taken = outcome(run), pool.started
    weights = run.prepared.directory.local / "weights" / "002.npy"
    weights.write_bytes(weights.read_bytes()[:-1])
    events.clear()
    pool.run(*steps_of(again := pipelined()))
    assert (pool.started, outcome(again)) == (taken, expected)
    [note] = of(events, "note")
    assert note["text"] == "weights/002.npy was damaged; written anew"
    assert note["stage"] == "member 002"

    # Also what all later members come from.
    for name in ("000-round-0", "001-round-0", "003"):
        logits = run.prepared.directory.local / "members" / name / "logits.safetensors"
        logits.write_bytes(logits.read_bytes()[:-1])
    events.clear()
    pool.run(*steps_of(again := pipelined()))
    assert (pool.started, outcome(again)) == (taken + 3, expected)
    done = sorted((event["stage"], event["round"]) for event in of(events, "done"))
    assert done == [("member 000", 0), ("member 001", 0), ("member 003", 1)]
    damaged = {event["stage"]: event["text"] for event in of(events, "note")}
    assert sorted(damaged) == ["member 000", "member 001", "member 003"]
    assert damaged["member 000"].endswith(
        "is damaged: logits.safetensors is not as it was written; member 000 round 0 is done again"
    )


def test_deaths_change_nothing_of_a_pipelined_run(pool, pipelined, events):
    pool.run(*steps_of(run := pipelined()))
    expected, members = outcome(run), run.prepared.directory.local / "members"
    shutil.rmtree(members)
    members.mkdir()
    for name in ("000-round-0", "001"):
        (members / f"{name}.deaths").write_text("1")
    events.clear()
    pool.run(*steps_of(again := pipelined()))
    assert outcome(again) == expected
    assert [event["stage"] for event in of(events, "restart")] == ["member 000", "member 001"]
