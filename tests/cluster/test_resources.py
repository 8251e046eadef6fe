"""Who gets what of a cluster, and a cluster that is not there."""

import signal
import socket
import time

import pytest

from bebert_ray.cluster.resources import Allotment, Node, allot, connected, last_lines, room
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.errors import UserError
from bebert_ray.pipeline.memory import EncoderShape, member_memory, stage_memory

GB = 1e9


def divide(nodes, *overrides):
    return allot(load_config(None, ["task=sst2", *overrides]), nodes)


def cpus(nodes, *overrides):
    """CPUs of a stage, CPUs of a member, members in flight."""
    result = divide(nodes, *overrides)
    return result.stage.cpu, result.member.cpu, result.in_flight


BAGGING = ("ensemble.method=bagging", "ensemble.members=4")
SEQUENTIAL_BAGGING = (*BAGGING, "ensemble.schedule=sequential")
PIPELINED = ("ensemble.schedule=pipelined", "ensemble.members=4", "member.epochs=2")
FOLDS = ("ensemble.errors=out_of_fold", "ensemble.folds=3")


@pytest.mark.parametrize(
    ("nodes", "overrides", "expected"),
    [
        ([(8, 0, 32)], (), (8, 8, 1)),  # boosting: one member after the other, each with all
        ([(8, 0, 32)], BAGGING, (8, 2, 4)),
        ([(8, 0, 32)], PIPELINED, (8, 2, 4)),
        ([(2, 0, 32)], PIPELINED, (2, 1, 2)),
        ([(8, 0, 32)], SEQUENTIAL_BAGGING, (8, 8, 1)),
        ([(8, 0, 32)], FOLDS, (8, 2, 4)),  # a member and its three folds
        ([(8, 0, 32)], (*SEQUENTIAL_BAGGING, *FOLDS), (8, 8, 1)),  # folds are for boosting
        ([(2, 0, 32)], BAGGING, (2, 1, 2)),  # two at a time, the others wait
        ([(3, 0, 32)], BAGGING, (3, 1, 3)),
        ([(8, 0, 3)], (*BAGGING, "resources.member.memory=1.5GB"), (8, 2, 2)),  # memory for two
        ([(4, 0, 32), (4, 0, 32)], BAGGING, (4, 2, 4)),
        ([(4, 0, 32)] * 8, BAGGING, (4, 4, 4)),
        ([(0, 0, 32), (4, 0, 32)], (), (4, 4, 1)),  # a head node that does no work
        ([(8, 0, 32)], (*BAGGING, "resources.member.cpu=3"), (8, 3, 2)),
        ([(8, 0, 32)], ("resources.stage.cpu=5",), (5, 8, 1)),
    ],
)
def test_cpus_are_shared_out(nodes, overrides, expected):
    nodes = [Node(cpu, gpu, memory * GB) for cpu, gpu, memory in nodes]
    assert cpus(nodes, *overrides) == expected


@pytest.mark.parametrize(("runs", "member"), [(1, 8), (2, 4), (3, 2), (12, 1)])
def test_runs_that_share_a_cluster_leave_each_other_room(runs, member):
    allotments = allot(load_config(None, ["task=mrpc"]), [Node(8, 0, 32 * GB)], runs=runs)
    assert (allotments.member.cpu, allotments.together) == (member, 1)


@pytest.mark.parametrize(
    ("overrides", "together"),
    [((), 1), (BAGGING, 4), (PIPELINED, 4), (SEQUENTIAL_BAGGING, 1), (FOLDS, 4)],
)
def test_who_need_not_wait_for_each_other(overrides, together):
    """On a cluster that grows, so many have room in the end."""
    small, large = ([Node(1, 0, 4 * GB)] * n for n in (1, 9))
    one, other = (divide(nodes, "resources.member.cpu=1", *overrides) for nodes in (small, large))
    assert (one.together, one.in_flight) == (together, 1)
    assert (other.together, other.in_flight) == (together, together)
    assert room(small, one.member) == 1
    assert room(large, one.member) == 9


def test_a_share_of_a_gpu_bounds_the_members_in_flight():
    nodes = [Node(16, 2, 64 * GB)]
    result = divide(nodes, *BAGGING, "resources.member.gpu=0.5", "resources.member.cpu=1")
    assert (result.member.gpu, result.in_flight) == (0.5, 4)
    result = divide(nodes, *BAGGING, "resources.member.gpu=1", "resources.member.cpu=1")
    assert result.in_flight == 2


@pytest.mark.parametrize(
    ("nodes", "overrides", "expected"),
    [
        ([(8, 0)], (), (0, 0)),
        ([(8, 1)], (), (1, 1)),
        ([(8, 2)], BAGGING, (1, 0.5)),  # four members
        ([(8, 4)], BAGGING, (1, 1)),
        ([(6, 2), (6, 2)], ("ensemble.method=bagging", "ensemble.members=6"), (1, 0.5)),
        ([(8, 1)], ("ensemble.method=bagging", "ensemble.members=3"), (1, 0.3333)),
        ([(64, 1)], ("ensemble.method=bagging", "ensemble.members=64"), (1, 0.25)),
        ([(0, 0), (8, 2)], BAGGING, (1, 0.5)),  # a head node that does no work
        ([(8, 2)], (*BAGGING, "resources.member.gpu=0"), (1, 0)),
        ([(8, 2)], ("resources.stage.gpu=0",), (0, 1)),
        ([(8, 2)], ("resources.stage_workers=2",), (1, 1)),
        ([(8, 1)], ("resources.stage_workers=2",), (0, 1)),  # there is none for each process
    ],
)
def test_gpus_are_shared_out_as_cpus_are(nodes, overrides, expected):
    """GPU of a stage, GPU of a member."""
    result = divide([Node(cpu, gpu, 64 * GB) for cpu, gpu in nodes], *overrides)
    assert (result.stage.gpu, result.member.gpu) == expected


def test_members_with_gpus_share_the_cpus_of_machines_with_gpus():
    result = divide([Node(64, 0, 64 * GB), Node(8, 2, 64 * GB)], *BAGGING)
    assert (result.member, result.in_flight) == (Allotment(2, 0.5), 4)
    assert result.stage == Allotment(8, 1.0)


def test_memory_is_estimated_unless_it_is_given():
    tiny = EncoderShape(layers=2, hidden=32, heads=4, neurons=64, rows=166)
    config = load_config(None, ["task=sst2", "resources.stage.memory=3GB"])
    result = allot(config, [Node(8, 0, 4 * GB)], shape=tiny)
    assert result.stage.memory == 3e9
    assert result.member.memory == member_memory(config, tiny)


@pytest.mark.parametrize("overrides", [(), PIPELINED])
def test_one_worker_has_memory_for_all_steps_if_they_follow_each_other(overrides):
    """It then need not be replaced between stages and members."""
    shape = EncoderShape(layers=6, hidden=384, heads=12, neurons=1536, rows=31_000)
    config = load_config(None, ["task=sst2", "data.max_length=32", "bits=1-1-4", *overrides])
    result, needed = allot(config, [Node(8, 0, 64 * GB)], shape=shape), member_memory(config, shape)
    assert stage_memory(config, shape) < needed == result.member.memory
    assert result.stage.memory == (stage_memory(config, shape) if overrides else needed)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.stage.cpu=9", r"resources\.stage: 9 CPUs fit on no machine .*8 CPUs, 4\.0 GB"),
        ("resources.member.cpu=9", r"resources\.member: 9 CPUs fit on no machine"),
        ("resources.stage.gpu=1", r"resources\.stage: 1 CPU, 1 GPU fit on no machine"),
        ("resources.member.memory=5e9", r"resources\.member: 8 CPUs, 5\.0 GB fit on no machine"),
    ],
)
def test_what_fits_on_no_machine_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        divide([Node(8, 0, 4 * GB)], override)


def test_allotments_read_well():
    assert str(Allotment(1)) == "1 CPU"
    assert str(Allotment(2, 0.5, 1.5e9)) == "2 CPUs, 0.5 GPU, 1.5 GB"
    assert str(Node(0, 2, 0)) == "0 CPUs, 2 GPUs"


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nonsense"])
def test_a_cluster_that_is_not_there_is_told_of_at_once(monkeypatch, address):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(port=free.getsockname()[1])
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with (
        pytest.raises(UserError, match=rf"Ray at {address} cannot be used.*unset it"),
        connected(ResourcesConfig()),
    ):
        pass
    assert time.monotonic() - started < 10


def test_the_last_lines_of_a_log_on_this_machine(tmp_path):
    log = tmp_path / "worker.err"
    log.write_bytes(b"one\ntwo \xff\nthree\n")
    here = socket.gethostname()
    assert last_lines(str(log), here, 2) == ["two \N{REPLACEMENT CHARACTER}", "three"]
    assert last_lines(str(log), here, 9)[0] == "one"
    assert last_lines(str(tmp_path / "none"), here, 2) == []
    assert last_lines("", "", 2) == [], "a worker that has not begun"


@pytest.mark.cluster
def test_a_ray_of_our_own_lasts_as_long_as_the_context_and_leaves_our_signal_handlers(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with connected(ResourcesConfig(num_cpus=3)) as nodes:
        assert [node.cpu for node in nodes] == [3]
        assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert not ray.is_initialized()
