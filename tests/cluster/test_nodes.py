"""The pool on two nodes, each with three CPUs and two GPUs that only Ray believes in."""

import io
import os
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from bebert_ray.cluster.pool import Pool
from bebert_ray.cluster.resources import allot, live_nodes
from bebert_ray.cluster.worker import Worker
from bebert_ray.config import load_config
from bebert_ray.errors import UserError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.pipeline.steps import Step
from bebert_ray.reporting.progress import Board
from bebert_ray.scoring.stream import scored
from bebert_ray.storage import commit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BAGGING = ("ensemble.method=bagging", "ensemble.members=6")


class Seeing:
    """Trains nothing, and tells what it sees."""

    def __init__(self, *run, **options):
        self.gpu = options["gpu"]

    def run(self, step, splits):
        import ray

        facts = {
            "gpu": self.gpu,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        return commit(step.path, step.kind, step.inputs, lambda _: facts), {}


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=3, num_gpus=2)
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def pool(cluster, tiny_run, tiny_checkpoint, tmp_path):
    """Makes a pool with more overrides, from a checkpoint of its own."""
    model = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    pools = []

    def pool(worker, *overrides):
        output = tmp_path / "run"
        more = (f"model={model}", f"output={output}", *overrides)
        prepared = prepare(load_config(None, [*tiny_run, "resources.num_cpus=null", *more]))
        splits = open_run(prepared)
        allotments = allot(prepared.config, live_nodes(), shape=prepared.shape)
        board = Board(output, Console(file=io.StringIO(), width=120)).__enter__()
        pools.append((Pool(prepared, splits, allotments, board, worker), board))
        return pools[-1][0]

    yield pool
    for each, board in pools:
        each.stop()
        board.__exit__(None, None, None)


def seen_by(pool, members):
    """What the workers of so many members see, all at once."""
    place, seen = pool._prepared.directory, []
    weight = np.full((1, 86), 1 / 86)
    steps = [
        Step(name, name, "member", place / name, place / "none", {}, member=i, sample_weight=weight)
        for i, name in enumerate(f"member {i}" for i in range(members))
    ]
    pool.run(steps, lambda step, artifact, *_: seen.append(artifact.facts) or [])
    return seen


@pytest.mark.slow
def test_six_members_share_four_gpus_and_each_sees_its_own(pool):
    made = pool(Seeing, *BAGGING)
    need = made._allotments.member
    assert (need.cpu, need.gpu, made._allotments.in_flight) == (1, 0.5, 6)
    seen = seen_by(made, 6)
    assert len({facts["pid"] for facts in seen}) == 6
    assert {facts["gpu"] for facts in seen} == {0.5}
    members = Counter((facts["node"], facts["visible"]) for facts in seen)
    assert {visible for _, visible in members} == {"0", "1"}
    assert len(members) == 4 and max(members.values()) == 2


def test_a_member_without_a_gpu_sees_none(pool):
    [facts] = seen_by(pool(Seeing, "resources.member.gpu=0"), 1)
    assert (facts["gpu"], facts["visible"]) == (0, "")


def test_workers_need_no_path_of_the_driver(pool, tmp_path):
    """As on another machine, where the checkpoint is not."""
    made = pool(Worker, "resources.stage.gpu=0", "teacher.epochs=1", "data.max_train=16")
    (tmp_path / "checkpoint").rename(tmp_path / "elsewhere")
    run, done = Run(made._prepared, made._columns), []
    made.run(run.start(), lambda step, artifact, *_: done.append(artifact) or [])
    assert [artifact.stage for artifact in done] == ["teacher"]
    config = (done[0].path / "config.json").read_text()
    assert str(tmp_path / "checkpoint") in config, "the same bytes as from the checkpoint itself"


def test_rows_in_memory_need_a_cpu_of_the_machine_that_has_them(cluster):
    with pytest.raises(UserError, match="Ray has no CPU of it; write them to a file"):
        next(scored(None, [], here=True))
