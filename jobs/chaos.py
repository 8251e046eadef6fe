"""Kill what a run is made of, at any moment; `python jobs/chaos.py --help` tells more."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure.processes import descendants
from measure.tiny import tiny_run

from bebert_ray.cli.common import local_path, run_job
from bebert_ray.errors import RunError
from bebert_ray.pipeline.layout import MEMBERS, RESULTS, WEIGHTS
from bebert_ray.reporting.events import DRIVER, Event, read_events
from bebert_ray.storage import Location

DESCRIPTION = """\
Run a tiny ensemble, one with data-parallel stages, a sweep and a prediction on a Ray of several
nodes, all on this machine: each once undisturbed, and then one of them for each kill -9 of a
worker, the queue of events, a node, the driver, a process of a data-parallel group, the process of
a trial, a scoring process, a raylet or the head, at moments spread over the run.

Every run must end, and with the same bits: weights, logits, alphas, metrics, sizes, scored rows. A
killed node is followed by a new one, a killed driver by the same command again. With a killed head
the command must end and say so; it is given again on a new cluster. The last line of stdout is one
JSON object.
exit code: 0 all runs ended the same, 1 one did not"""

EXAMPLES = """\
examples:
  python jobs/chaos.py
  python jobs/chaos.py --kills 40 --seed 1
  python jobs/chaos.py --kills 6 --seed 1 --schedule sequential --output runs/chaos
  python jobs/chaos.py --kills 6 bits=1-1-1 binary.through=[1-1-2]"""

TRAIN = 256  # examples
NODES = 2  # of one CPU each, beside a head that takes no steps
LIMIT = 600.0  # seconds until a run is taken to hang
POLL = 0.05  # seconds
ROWS = 6000  # to score


@dataclass(frozen=True)
class Moment:
    """A point of a run: `seconds` after its event number `events`, where 0 is its start."""

    events: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A disturbed run.

    Attributes:
        run: the command that was disturbed.
        kind: what was killed.
        moment: when, as a fraction of the undisturbed run.
        stage: what was in training then.
        seconds: what the run took in all.
        outcome: `same`, or what is wrong.
    """

    run: str
    kind: str
    moment: float
    stage: str
    seconds: float
    outcome: str

    def __str__(self) -> str:
        return (
            f"{self.moment:6.1%}  {self.run:<10}  {self.stage:<10}  {self.kind:<6}  "
            f"{self.seconds:5.1f} s  "
            f"{self.outcome}"
        )


# --- what is disturbed ---


@dataclass(frozen=True)
class Subject:
    """A command whose processes are killed.

    Attributes:
        name: what people call it.
        command: its script and arguments, but for the output directory.
        output: the argument that names that.
        bits: all that must be the same, by name, from the directory of a finished one.
    """

    name: str
    command: list[str]
    output: Callable[[Path], list[str]]
    bits: Callable[[Path], dict[str, str]]


def subjects(
    place: Path, members: int, schedule: str, overrides: list[str]
) -> dict[str, Callable[[], Subject]]:
    """The commands, by name. That of scoring needs the model of an ensemble that is done."""
    tiny = tiny_run(place / "input", TRAIN)
    settings = [
        *tiny,
        f"ensemble.members={members}",
        f"ensemble.schedule={schedule}",
        "member.epochs=4",
        "training.checkpoint_every=8",
        *overrides,
    ]
    jobs = Path(__file__).parent

    def key(directory: Path) -> list[str]:
        return [f"output={directory}"]

    def ensemble() -> Subject:
        return Subject("ensemble", [str(jobs / "ensemble.py"), *settings], key, bits)

    def group() -> Subject:
        more = ["resources.stage_workers=2", "ensemble.members=1", "ensemble.schedule=sequential"]
        return Subject("group", [str(jobs / "ensemble.py"), *settings, *more], key, bits)

    def sweep() -> Subject:
        space = "sweep.space.member.learning_rate={choice: [1e-3, 3e-3]}"
        more = ["ensemble.members=2", "sweep.trials=2", "sweep.early_stopping=false", space]
        return Subject("sweep", [str(jobs / "sweep.py"), *settings, *more], key, sweep_bits)

    def prediction() -> Subject:
        texts = place / "texts.csv"
        if not texts.exists():
            rows = [
                f"the {'film' if i % 2 else 'plot'} is {'good' if i % 3 else 'dull'}"
                for i in range(ROWS)
            ]
            texts.write_text("\n".join(["text", *rows]) + "\n")
        flags = ["--model", str(place / "undisturbed-ensemble" / "model"), "--input", str(texts)]
        flags += ["--rows-per-file", str(ROWS // 60)]
        return Subject(
            "prediction",
            [str(jobs / "predict.py"), *flags],
            lambda directory: ["--output", str(directory)],
            scored_bits,
        )

    return {"ensemble": ensemble, "group": group, "sweep": sweep, "prediction": prediction}


def chaos(
    kills: int, seed: int, members: int, schedule: str, overrides: list[str], output: Path
) -> dict[str, Any]:
    """The undisturbed runs, and a run for each kill.

    Args:
        kills: how many.
        seed: of the moments and the victims.
        members: of the ensemble.
        schedule: `pipelined` or `sequential`.
        overrides: of whatever else of the configuration.
        output: new directory for the runs; those that end as they should are deleted.

    Returns:
        What was done, and how many runs ended the same.

    Raises:
        RunError: an undisturbed run failed.
    """
    makers = subjects(output, members, schedule, overrides)
    rng = random.Random(seed)
    moments = [(number + rng.random()) / kills for number in range(kills)]
    rng.shuffle(moments)
    calm: dict[str, tuple[Subject, dict[str, str], Timeline]] = {}
    trials = []
    with Machines() as machines:

        def undisturbed(name: str) -> tuple[Subject, dict[str, str], Timeline]:
            if name == "prediction":
                undisturbed("ensemble")
            if name not in calm:
                subject = makers[name]()
                with Job(subject, output / f"undisturbed-{name}", machines) as job:
                    if job.wait():
                        raise RunError(f"the undisturbed {name} failed; see {job.log}")
                calm[name] = subject, subject.bits(job.directory), Timeline.of(job)
                print(f"undisturbed {name}: {calm[name][2]}", flush=True)
            return calm[name]

        for number, fraction in enumerate(moments):
            name, kind = PLAN[number % len(PLAN)]
            subject, expected, timeline = undisturbed(name)
            for attempt in range(ATTEMPTS):
                # It may have been over, or without such a process, at the moment before.
                moment = fraction * EARLIER**attempt
                with Job(subject, output / f"{number:03d}-{attempt}", machines) as job:
                    job.wait_for(timeline.moment(moment))
                    stage = job.stage
                    wrong = OVER if job.ended else KILLS[kind](job, machines, rng)
                    wrong = wrong or _what_is_wrong(job, job.wait(), expected)
                if wrong in ("", OVER):
                    shutil.rmtree(job.directory, ignore_errors=True)
                if wrong != OVER:
                    break
            trials.append(Trial(name, kind, moment, stage, round(job.age, 1), wrong or "same"))
            print(f"{number + 1:3d}/{kills}  {trials[-1]}", flush=True)
    return {
        "chaos": schedule,
        "members": members,
        "seed": seed,
        "kills": kills,
        "same": sum(trial.outcome == "same" for trial in trials),
        "undisturbed_seconds": {name: round(each[2].end, 1) for name, each in calm.items()},
        "trials": [asdict(trial) for trial in trials],
    }


# --- the victims; each killer tells what went wrong, such as that there was no victim ---

OVER = "it was over before the kill"
ATTEMPTS, EARLIER = 4, 0.6


Killer = Callable[["Job", "Machines", random.Random], str]


def _one_of(*names: str) -> Killer:
    """Kills a process of these names, as soon as there is one."""

    def kill(job: Job, machines: Machines, rng: random.Random) -> str:
        while not job.ended:
            if pids := descendants(os.getpid(), *names):
                os.kill(rng.choice(pids), signal.SIGKILL)
                return ""
            time.sleep(POLL)  # between two of them: the next one, then
        return OVER

    return kill


def _kill_node(job: Job, machines: Machines, rng: random.Random) -> str:
    machines.replace_one(rng)
    return ""


def _kill_raylet(job: Job, machines: Machines, rng: random.Random) -> str:
    machines.kill_raylet(rng)
    return ""


def _kill_driver(job: Job, machines: Machines, rng: random.Random) -> str:
    job.kill()
    job.start()
    return ""


def _kill_head(job: Job, machines: Machines, rng: random.Random) -> str:
    """The driver has to end and to say what to do; so is done, on a new cluster."""
    machines.kill_head()
    if job.wait() is None:
        return f"it hangs without a head; see {job.log}"
    said = job.log.read_text(errors="replace")
    machines.start()
    job.start()
    return "" if "same command again" in said else f"no word of what to do; see {job.log}"


KILLS: dict[str, Killer] = {
    "worker": _one_of("ray::Worker"),
    "queue": _one_of("ray::_QueueActor"),
    "node": _kill_node,
    "driver": _kill_driver,
    "group": _one_of("ray::Group", "ray::RayTrainWorker", "ray::TrainController"),
    "trial": _one_of("ray::ImplicitFunc", "ray::_trainable"),
    "scorer": _one_of("ray::MapWorker", "ray::_MapWorker"),
    "raylet": _kill_raylet,
    "head": _kill_head,
}

PLAN = [
    *(("ensemble", kind) for kind in ("worker", "queue", "node", "driver")),
    *(("prediction", "scorer"), ("sweep", "trial"), ("group", "group"), ("ensemble", "head")),
    *(("prediction", "driver"), ("sweep", "driver"), ("ensemble", "raylet")),
    *(("prediction", "node"), ("sweep", "worker"), ("group", "driver"), ("prediction", "head")),
    *(("sweep", "queue"), ("group", "node"), ("prediction", "raylet"), ("sweep", "node")),
    *(("sweep", "head"), ("group", "queue"), ("sweep", "raylet")),
]
"""What is killed, one after another: the first four are those of an ensemble."""


# --- the run ---


class Machines:
    """A Ray of a head and `NODES` nodes, all on this machine; a context."""

    def __enter__(self) -> Machines:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    def start(self) -> None:
        """Start all of it."""
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NODES):
            self._cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        """That of the head."""
        return str(self._cluster.address)

    def replace_one(self, rng: random.Random) -> None:
        """Kill all processes of a node, and add another."""
        self._cluster.remove_node(self._one(rng), allow_graceful=False)
        self._cluster.add_node(num_cpus=1)

    def kill_raylet(self, rng: random.Random) -> None:
        """Kill the raylet of a node alone, which its other processes follow; add another node."""
        node = self._one(rng)
        node.all_processes["raylet"][0].process.kill()
        self._cluster.add_node(num_cpus=1)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_head(self) -> None:
        """Kill the process that knows of all others."""
        self._cluster.head_node.all_processes["gcs_server"][0].process.kill()
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            node.kill_all_processes(check_alive=False, allow_graceful=False)

    def _one(self, rng: random.Random) -> Any:
        return rng.choice(sorted(self._cluster.worker_nodes, key=lambda node: node.node_id))


class Job:
    """A command in a process, killed at the latest when the context ends.

    Args:
        subject: the command.
        directory: its output; what the job prints goes beside it.
        machines: the Ray to use.
    """

    def __init__(self, subject: Subject, directory: Path, machines: Machines):
        self.subject = subject
        self.directory, self.log = directory, directory.with_suffix(".log")
        self._command = [sys.executable, *subject.command, *subject.output(directory)]
        self._machines = machines
        self._over: float | None = None

    def __enter__(self) -> Job:
        self.began = time.time()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Give the command, for the first time or again."""
        there = {"RAY_ADDRESS": self._machines.address, "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | there
            )

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int | None:
        """The exit code; None if the run hangs."""
        try:
            return self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._over = time.time()

    @property
    def age(self) -> float:
        """Seconds from its start to its end, or until now."""
        return (self._over or time.time()) - self.began

    def wait_for(self, moment: Moment) -> None:
        """Wait until the run has come to a moment, or to its end."""
        while len(self.events) < moment.events and not self.ended:
            time.sleep(POLL)
        since = time.time() if moment.events else self.began
        while time.time() - since < moment.seconds and not self.ended:
            time.sleep(POLL)

    @property
    def ended(self) -> bool:
        """Whether the process has."""
        return self._process.poll() is not None

    @property
    def events(self) -> list[Event]:
        """All that has been recorded so far."""
        return read_events(Location.of(self.directory))

    @property
    def stage(self) -> str:
        """What is in training, going by the last event."""
        stages = [event["stage"] for event in self.events if event["stage"] != DRIVER]
        return stages[-1] if stages else "start"


@dataclass(frozen=True)
class Timeline:
    """When the events of a run came, and its results, in seconds from its start."""

    events: list[float]
    end: float
    stages: dict[str, float]

    @classmethod
    def of(cls, job: Job) -> Timeline:
        """That of a finished run."""
        results = job.directory / RESULTS
        times = [event["time"] - job.began for event in job.events]
        if not times:  # a sweep's are in its trials, scoring has none
            return cls([], job.age, {})
        seconds = json.loads(results.read_text())["seconds"]
        return cls(times, results.stat().st_mtime - job.began, seconds)

    def moment(self, fraction: float) -> Moment:
        """The moment when so much of the run has passed."""
        elapsed = fraction * self.end
        before = [time for time in self.events if time <= elapsed]
        return Moment(len(before), elapsed - max(before, default=0.0))

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds}" for name, seconds in self.stages.items())
        return f"{self.end:.1f} s; in training: {stages}"


# --- what must be the same ---


def bits(directory: Path) -> dict[str, str]:
    """Hashes of all that a run has made, by name: tensors, sample weights, figures."""
    files = {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("*/*.safetensors", f"{MEMBERS}/*/*.safetensors", f"{WEIGHTS}/*.npy")
        for path in sorted(directory.glob(pattern))
    }
    figures = _without_times(json.loads((directory / RESULTS).read_text()))
    return files | {f"{RESULTS}: {name}": json.dumps(value) for name, value in figures.items()}


def sweep_bits(directory: Path) -> dict[str, str]:
    """What each trial of a sweep has come to, by its point, and the tensors of the stages.

    Which points a search tries may depend on when a trial ended; what a point comes to does not.
    """
    found = {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.glob("shared/*/*.safetensors"))
    }
    records = [json.loads(path.read_text()) for path in sorted(directory.glob("trials/*.json"))]
    if any(record["state"] != "done" for record in records) or len(records) < 2:
        found["trials"] = "not all are done"
    return found | {
        f"trial at {json.dumps(record['point'])}": json.dumps([record["score"], record["bits"]])
        for record in records
    }


def scored_bits(directory: Path) -> dict[str, str]:
    """Hashes of all output files."""
    paths = [*directory.glob("part-*"), *directory.glob("_bad_rows/*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_times(below)
            for name, below in value.items()
            if name not in ("run", "output", "seconds", "checksum")
        }
    return [_without_times(below) for below in value] if isinstance(value, list) else value


def _what_is_wrong(job: Job, code: int | None, expected: dict[str, str]) -> str:
    """What is not as in the undisturbed run; empty if nothing is."""
    if code is None:
        return f"it hangs; see {job.log}"
    if code:
        return f"exit code {code}; see {job.log}"
    found = job.subject.bits(job.directory)
    if job.subject.name == "sweep":  # the points in common
        points = {name for name in expected | found if name.startswith("trial at")}
        expected = {
            name: bits for name, bits in expected.items() if name not in points - found.keys()
        }
        found = {name: bits for name, bits in found.items() if name not in points - expected.keys()}
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    return f"differs: {', '.join(different)}" if different else ""


def main(arguments: list[str] | None = None) -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="disturbed runs (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims (default: 0)")
    parser.add_argument("--members", type=int, default=4, help="of the ensemble (default: 4)")
    parser.add_argument("--schedule", choices=["pipelined", "sequential"], default="pipelined")
    parser.add_argument("--output", type=local_path, help="new directory (default: temporary)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="set a key")
    flags = parser.parse_intermixed_args(arguments)
    output = (flags.output or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    output.mkdir(parents=True, exist_ok=True)
    print(f"runs: {output}", flush=True)
    result = chaos(flags.kills, flags.seed, flags.members, flags.schedule, flags.overrides, output)
    print(json.dumps(result), flush=True)
    if result["same"] < flags.kills:
        raise RunError(f"{flags.kills - result['same']} of {flags.kills} runs did not end the same")


if __name__ == "__main__":
    sys.exit(run_job(main))
