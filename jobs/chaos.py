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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure.tiny import tiny_run

from bebert_ray.cli.common import local_path, run_job
from bebert_ray.errors import RunError
from bebert_ray.pipeline.layout import MEMBERS, RESULTS, WEIGHTS
from bebert_ray.reporting.events import DRIVER, Event, read_events
from bebert_ray.storage import Location

DESCRIPTION = """\
Run a tiny ensemble on a Ray of several nodes, all on this machine: once undisturbed, and then once
for each kill -9 of a worker, of the queue of its events, of a whole node or of the driver, at
moments spread over the run.

Every run must end, and with the same bits: weights, logits, alphas, metrics, sizes. A killed node
is followed by a new one, a killed driver by the same command again. The last line of stdout is one
JSON object.
exit code: 0 all runs ended the same, 1 one did not"""

EXAMPLES = """\
examples:
  python jobs/chaos.py
  python jobs/chaos.py --kills 6 --seed 1 --schedule sequential --output runs/chaos
  python jobs/chaos.py --kills 6 bits=1-1-1 binary.through=[1-1-2]"""

TRAIN = 256  # examples
NODES = 2  # of one CPU each, beside a head that takes no steps
LIMIT = 600.0  # seconds until a run is taken to hang
POLL = 0.05  # seconds
ENSEMBLE = Path(__file__).with_name("ensemble.py")


@dataclass(frozen=True)
class Moment:
    """A point of a run: `seconds` after its event number `events`, where 0 is its start."""

    events: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A disturbed run.

    Attributes:
        kind: what was killed.
        moment: when, as a fraction of the undisturbed run.
        stage: what was in training then.
        seconds: what the run took in all.
        outcome: `same`, or what is wrong.
    """

    kind: str
    moment: float
    stage: str
    seconds: float
    outcome: str

    def __str__(self) -> str:
        return (
            f"{self.moment:6.1%}  {self.stage:<10}  {self.kind:<6}  {self.seconds:5.1f} s  "
            f"{self.outcome}"
        )


def chaos(
    kills: int, seed: int, members: int, schedule: str, overrides: list[str], output: Path
) -> dict[str, Any]:
    """The undisturbed run, and a run for each kill.

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
        RunError: the undisturbed run failed.
    """
    settings = [
        *tiny_run(output / "input", TRAIN),
        f"ensemble.members={members}",
        f"ensemble.schedule={schedule}",
        "member.epochs=4",
        "training.checkpoint_every=8",
        *overrides,
    ]
    rng = random.Random(seed)
    moments = [(number + rng.random()) / kills for number in range(kills)]
    rng.shuffle(moments)
    trials = []
    with ray_cluster() as cluster:
        with Job(settings, output / "undisturbed", cluster.address) as calm:
            if calm.wait():
                raise RunError(f"the undisturbed run failed; see {calm.log}")
        expected, timeline = bits(calm.directory), Timeline.of(calm)
        print(f"undisturbed: {timeline}", flush=True)
        for number, fraction in enumerate(moments):
            kind, kill = list(KILLS.items())[number % len(KILLS)]
            with Job(settings, output / f"{number:03d}", cluster.address) as job:
                job.wait_for(timeline.moment(fraction))
                stage = job.stage
                hit = kill(job, cluster, rng)
                code = job.wait()
            wrong = _what_is_wrong(job, code, expected) if hit else "it was over before the kill"
            trials.append(Trial(kind, fraction, stage, round(job.age, 1), wrong or "same"))
            print(f"{number + 1:3d}/{kills}  {trials[-1]}", flush=True)
            if not wrong:
                shutil.rmtree(job.directory)
    return {
        "chaos": schedule,
        "members": members,
        "seed": seed,
        "kills": kills,
        "same": sum(trial.outcome == "same" for trial in trials),
        "undisturbed_seconds": round(timeline.end, 1),
        "trials": [asdict(trial) for trial in trials],
    }


# --- the victims; each killer tells whether there was one ---


def _kill_worker(job: Job, cluster: Any, rng: random.Random) -> bool:
    return _kill_one_of("ray::Worker", job, rng)


def _kill_queue(job: Job, cluster: Any, rng: random.Random) -> bool:
    return _kill_one_of("ray::_QueueActor", job, rng)


def _kill_one_of(name: str, job: Job, rng: random.Random) -> bool:
    while not job.ended:
        if pids := _processes(name):
            os.kill(rng.choice(pids), signal.SIGKILL)
            return True
        time.sleep(POLL)  # between two of them: the next one, then
    return False


def _kill_node(job: Job, cluster: Any, rng: random.Random) -> bool:
    if job.ended:
        return False
    nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
    cluster.remove_node(rng.choice(nodes), allow_graceful=False)
    cluster.add_node(num_cpus=1)
    return True


def _kill_driver(job: Job, cluster: Any, rng: random.Random) -> bool:
    if job.ended:
        return False
    job.kill()
    job.start()
    return True


KILLS: dict[str, Callable[[Job, Any, random.Random], bool]] = {
    "worker": _kill_worker,
    "queue": _kill_queue,
    "node": _kill_node,
    "driver": _kill_driver,
}


def _processes(name: str) -> list[int]:
    """The processes of a kind, on all nodes of this process's own cluster."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    table = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in table}

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    pids = [int(pid) for pid, _, *args in table if args and args[0].startswith(name)]
    return sorted(filter(ours, pids))


# --- the run ---


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A Ray of a head and `NODES` nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


class Job:
    """`jobs/ensemble.py` in a process, killed at the latest when the context ends.

    Args:
        settings: overrides.
        directory: the run directory; what the job prints goes beside it.
        address: of the Ray to use.
    """

    def __init__(self, settings: list[str], directory: Path, address: str):
        self.directory, self.log = directory, directory.with_suffix(".log")
        self._command = [sys.executable, str(ENSEMBLE), *settings, f"output={directory}"]
        self._environment = os.environ | {"RAY_ADDRESS": address, "HF_HUB_OFFLINE": "1"}
        self._end: float | None = None

    def __enter__(self) -> Job:
        self.began = time.time()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Give the command, for the first time or again."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
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
            self.age = time.time() - self.began

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


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_times(below)
            for name, below in value.items()
            if name not in ("run", "output", "seconds")
        }
    return [_without_times(below) for below in value] if isinstance(value, list) else value


def _what_is_wrong(job: Job, code: int | None, expected: dict[str, str]) -> str:
    """What is not as in the undisturbed run; empty if nothing is."""
    if code is None:
        return f"it hangs; see {job.log}"
    if code:
        return f"exit code {code}; see {job.log}"
    found = bits(job.directory)
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
