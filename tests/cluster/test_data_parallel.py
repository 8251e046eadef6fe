"""Two processes that Ray Train starts, on a Ray of two CPUs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bebert_ray.cluster.data_parallel import (
    Group,
    GroupLost,
    _reason,
    group_environment,
    marked,
    remove_reservations,
)
from bebert_ray.cluster.resources import Allotment, Node, allot, connected
from bebert_ray.cluster.worker import Worker
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.config.recipes import kind_of
from bebert_ray.errors import UserError
from bebert_ray.pipeline.prepare import Prepared, open_run, prepare
from bebert_ray.pipeline.steps import Step, stage_step
from bebert_ray.storage import Artifact
from bebert_ray.training.parallel import PeerLost
from bebert_ray.training.work import load_logits

Events = list[dict[str, Any]]

# --- with Ray -----------------------------------------------------------------------------------


class Teacher:
    """The teacher of a run, in a directory of its own."""

    def __init__(self, overrides: list[str], output: Path):
        self.prepared: Prepared = prepare(load_config(None, [*overrides, f"output={output}"]))
        stage = kind_of(self.prepared.config).stage("teacher")
        self.step: Step = stage_step(self.prepared, stage, {})
        self.arrays = {name: c.to_arrays() for name, c in open_run(self.prepared).items()}
        self.run = (
            self.prepared.config,
            self.prepared.task,
            self.prepared.directory,
        )
        self.events: Events = []

    def alone(self) -> Artifact:
        """Train it in this process."""
        return Worker(*self.run, 1, self.events.append).run(self.step, self.arrays)[0]

    def together(self, watch: Callable[[dict[str, Any]], None] = lambda _: None) -> Artifact:
        """Train it in two processes; whatever happens is shown to `watch` as well."""
        import ray
        from ray.util.queue import Queue

        queue = Queue(actor_options={"num_cpus": 0})
        actor: Any = ray.remote(Group)
        environment = {"env_vars": group_environment(1)}
        allotment = marked(Allotment(1))
        group = actor.options(num_cpus=0, runtime_env=environment).remote(
            *self.run, allotment, 2, queue.put
        )
        call, done = group.run.remote(self.step, [ray.put(self.arrays)]), []
        try:
            while not done:
                done, _ = ray.wait([call], timeout=0.1)
                for event in queue.get_nowait_batch(queue.qsize()):
                    self.events.append(event)
                    watch(event)
            return ray.get(call)[0]
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            ray.kill(group)
            remove_reservations(allotment)
            queue.shutdown()

    def progress(self) -> Events:
        """Where each epoch ended."""
        return [event for event in self.events if event.get("score") is not None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(ResourcesConfig(num_cpus=2)):
            yield


@pytest.fixture
def teacher(tiny_run: list[str], tmp_path: Path) -> Callable[..., Teacher]:
    def make(name: str, *overrides: str) -> Teacher:
        return Teacher([*tiny_run, "training.precision=fp32", *overrides], tmp_path / name)

    return make


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow  # Ray Train takes half a minute to start, and minutes on a busy machine
@pytest.mark.timeout(900)
def test_two_processes_make_the_teacher_that_one_makes(
    cluster: None, teacher: Callable[..., Teacher], tmp_path: Path
) -> None:
    one, two = teacher("one"), teacher("two")
    expected, made = one.alone(), two.together()
    losses = [event["loss"] for event in one.progress()]
    assert len(losses) == 12 and losses[-1] < 0.9 * losses[0]
    assert [event["loss"] for event in two.progress()] == pytest.approx(losses, abs=1e-4)
    for key in ("score", "learning_rate", "step", "steps", "epoch", "epochs"):
        assert [e[key] for e in two.progress()] == [e[key] for e in one.progress()], key
    assert made.facts["scores"] == expected.facts["scores"]
    for split, logits in load_logits(expected.path).items():
        np.testing.assert_allclose(load_logits(made.path)[split], logits, atol=1e-3, err_msg=split)
    assert [event["kind"] for event in two.events].count("start") == 1, "the first one speaks"
    assert files(tmp_path / "two") == files(tmp_path / "one"), "Ray Train leaves nothing behind"


@pytest.mark.cluster
@pytest.mark.slow  # Ray Train is started five times
@pytest.mark.timeout(900)
def test_a_group_that_dies_goes_on_from_its_checkpoint_and_mistakes_are_told(
    cluster: None, teacher: Callable[..., Teacher], tmp_path: Path
) -> None:
    undisturbed, killed = (teacher(name, "training.dropout=0.3") for name in ("whole", "killed"))
    expected = undisturbed.together()

    def kill(event: dict[str, Any]) -> None:
        if event.get("epoch") == 3:
            [start] = [each for each in killed.events if each["kind"] == "start"]
            with suppress(ProcessLookupError):
                os.kill(start["pid"], signal.SIGKILL)

    def kill_controller(event: dict[str, Any]) -> None:
        if event.get("epoch") == 2:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if "ray::TrainController" in " ".join(process.cmdline()):
                        process.kill()

    with pytest.raises(GroupLost, match="TrainController"):
        killed.together(kill_controller)
    killed.events.clear()
    with pytest.raises(GroupLost):
        killed.together(kill)
    killed.events.clear()
    assert killed.together().digest == expected.digest
    assert 3 <= killed.progress()[0]["epoch"] <= 6, "it went on from where it was"

    in_the_way = tmp_path / "killed" / "teacher"
    for path in in_the_way.iterdir():
        path.unlink()
    (in_the_way / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is not an artifact of an earlier run"):
        killed.together()


# --- without ------------------------------------------------------------------------------------


def ray_error(text: str) -> Exception:
    error = type("ActorDiedError", (Exception,), {"__module__": "ray.exceptions"})
    return error(text)


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ({0: UserError("full"), 1: UserError("full")}, UserError("full")),
        ({0: PeerLost("gone"), 1: KeyError("bug")}, KeyError("bug")),
        ({0: ray_error("killed"), 1: PeerLost("gone")}, GroupLost("killed")),
        ({1: ray_error("killed")}, GroupLost("killed")),
        ({0: PeerLost("0 is alone"), 1: PeerLost("1 is alone")}, GroupLost("0 is alone")),
        ({0: OSError(28, "full"), 1: ray_error("killed")}, OSError(28, "full")),
    ],
)
def test_what_a_group_has_failed_of(failures: dict[int, Exception], reason: Exception) -> None:
    from ray.train import WorkerGroupError

    found = _reason(WorkerGroupError("", failures))
    assert type(found) is type(reason) and found.args == reason.args


GB = 1e9


@pytest.mark.parametrize(
    ("nodes", "overrides", "cpu"),
    [
        ([(8, 0)], ("resources.stage_workers=1",), 8),
        ([(8, 0)], ("resources.stage_workers=2",), 4),
        ([(8, 0)], ("resources.stage_workers=3",), 2),
        ([(4, 0), (4, 0)], ("resources.stage_workers=2",), 4),
        ([(0, 0), (4, 0)], ("resources.stage_workers=2",), 2),  # a head node that does no work
        ([(8, 0), (4, 0)], ("resources.stage_workers=3",), 4),
        ([(2, 0)], ("resources.stage_workers=2", "resources.stage.cpu=1"), 1),
        ([(64, 0), (8, 2)], ("resources.stage_workers=2", "resources.stage.gpu=1"), 4),
    ],
)
def test_processes_of_a_stage_share_what_there_is(
    nodes: list[tuple[int, int]], overrides: tuple[str, ...], cpu: int
) -> None:
    config = load_config(None, ["task=sst2", *overrides])
    allotments = allot(config, [Node(cpu, gpu, 32 * GB) for cpu, gpu in nodes])
    assert allotments.stage.cpu == cpu
    assert allotments.stage_workers == config.resources.stage_workers


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resources.stage_workers=3"], r"no room for 3 processes of 1 CPU at once, but for 2"),
        (
            ["resources.stage_workers=2", "resources.stage.cpu=2"],
            r"stage_workers: .*2 CPUs, 1 GPU, 32\.0 GB.* 2 processes of 2 CPUs at once, but for 1",
        ),
        (
            ["resources.stage_workers=2", "resources.stage.gpu=1"],
            r"no room for 2 processes of 1 CPU, 1 GPU at once, but for 1",
        ),
        (
            ["resources.stage_workers=2", "resources.stage.gpu=0.5"],
            r"resources\.stage\.gpu: data-parallel processes cannot share a GPU",
        ),
    ],
)
def test_processes_that_find_no_room_together_are_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        allot(load_config(None, ["task=sst2", *overrides]), [Node(2, 1, 32 * GB)])
