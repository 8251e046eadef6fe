"""The crew on a real Ray of one CPU, with workers that train nothing."""

import io
import os
import signal
import sys

import pytest
from rich.console import Console

from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.ensemble import crew as crew_module
from bebert_ray.ensemble.cluster import Allotment, Allotments, connected
from bebert_ray.ensemble.crew import Crew
from bebert_ray.ensemble.prepare import open_run, prepare
from bebert_ray.ensemble.steps import Step
from bebert_ray.errors import RunError, UserError
from bebert_ray.progress import Board
from bebert_ray.storage import Miss, commit

pytestmark = pytest.mark.cluster


class StubWorker:
    """Does what the step's inputs say."""

    def __init__(self, config, task, checkpoint, directory, threads, report):
        self.threads, self.report = threads, report

    def take(self, step, splits):
        match step.inputs["do"]:
            case "make":
                facts = {
                    "pid": os.getpid(),
                    "threads": self.threads,
                    "omp": os.environ["OMP_NUM_THREADS"],
                    "examples": len(splits["train"]["labels"]),
                }
                progress = {"epoch": 1, "epochs": 1, "step": 1, "steps": 1, "loss": 0.5}
                event = {"stage": step.name, "examples_per_second": 9.0, "score": 0.75}
                self.report(event | progress)
                commit(step.path, step.stage, step.inputs, lambda _: facts)
            case "nothing":
                pass
            case "full disk":
                raise OSError(28, "No space left on device")
            case "bad input":
                raise UserError("this is wrong")
            case "diverge":
                raise RunError("the loss became nan")
            case "bug":
                raise KeyError("oops")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def crew(tiny_run, tmp_path_factory):
    """One crew for all tests, since the start of a worker takes seconds."""
    import ray

    output = tmp_path_factory.mktemp("crew")
    prepared = prepare(load_config(None, [*tiny_run, f"output={output}"]))
    splits = open_run(prepared)
    allotments = Allotments(Allotment(1), Allotment(1, 0, 1e8), 1)
    with (
        pytest.MonkeyPatch.context() as patch,
        Board(output, Console(file=io.StringIO(), width=120)) as board,
    ):
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(crew_module, "Worker", StubWorker)
        with connected(ResourcesConfig(num_cpus=1)):
            ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield Crew(prepared, splits, allotments, board)


@pytest.fixture
def step(crew, request):
    """A step of this test, in a directory of its own."""
    place = crew._prepared.directory / request.node.name[:40]

    def step(name, do="make"):
        member = int(name.split()[1]) if name.startswith("member") else None
        return Step(name, name.split()[0], place / name, {"do": do}, member)

    return step


def test_a_stage_that_is_there_is_not_done_again(crew, step):
    [made] = crew.do([step("teacher")])
    again, other = crew.do([step("teacher"), step("half")])
    assert again == made
    assert other.stage == "half"
    assert other.facts["pid"] == made.facts["pid"], "the shared stages share a worker"
    assert (made.facts["threads"], made.facts["omp"], made.facts["examples"]) == (1, "1", 86)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("full disk", r"^half failed: \[Errno 28\] No space left on device$"),
        ("bad input", r"^half failed: this is wrong$"),
        ("diverge", r"^half failed: the loss became nan$"),
        ("bug", r"(?s)^half failed, with a mistake of ours:.*in take.*KeyError: 'oops'"),
        ("nothing", r"^half was done, but .* \(absent\); .* must share the disk"),
    ],
)
def test_a_failure_names_the_step_and_keeps_what_is_done(crew, step, do, message):
    [made] = crew.do([step("teacher")])
    with pytest.raises(RunError, match=message):
        crew.do([step("teacher"), step("half", do)])
    assert step("teacher").find() == made
    assert isinstance(step("half", do).find(), Miss)


def test_members_get_workers_of_their_own_and_the_room_of_the_stages(crew, step):
    """There is one CPU: each worker must go before the next can come."""
    [split] = crew.do([step("split")])
    one, other = crew.do([step("member 0"), step("member 1")])
    assert len({made.facts["pid"] for made in (split, one, other)}) == 3
    assert [made.path.name for made in (one, other)] == ["member 0", "member 1"]
    shown = crew._board._console.file.getvalue()
    assert "member 1: epoch 1/1  step 1/1  loss 0.5000  9 examples/s  held-out 0.7500\n" in shown


def test_a_killed_worker_is_told_of(crew, step):
    message = r"^member 3 failed: its process died; .* give the same command again"
    with pytest.raises(RunError, match=message):
        crew.do([step("member 3", "die")])
