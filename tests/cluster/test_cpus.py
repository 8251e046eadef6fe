"""The CPUs that a process may use."""

import os
from contextlib import nullcontext

import pytest

from bebert_ray.cluster.cpus import available_cpus, check_cpus
from bebert_ray.errors import UserError


@pytest.fixture
def many(monkeypatch):
    """A machine of 64 CPUs, all of which this process may use."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.fixture
def groups(tmp_path):
    """Makes control groups: groups(own, {file: text})."""

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "cgroup", tmp_path / "own"

    return make


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/not/mounted/here\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:cpu,cpuacct:/job\n3:memory:/job\n",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "600000\n",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
                "memory/job/cpu.max": "100000 100000\n",
            },
            6,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            64,
        ),
        ("0::/\n", {"cpu.max": "what 7\n"}, 64),
    ],
)
def test_quotas_of_control_groups_count(groups, own, files, expected):
    assert available_cpus(*groups(own, files)) == expected


def test_the_affinity_counts(monkeypatch, groups, many):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7})
    assert available_cpus(*groups("0::/\n", {"cpu.max": "400000 100000"})) == 2
    assert available_cpus(*groups("0::/\n", {"cpu.max": "100000 100000"})) == 1


def test_ray_is_started_with_them(monkeypatch):
    from bebert_ray.cluster import resources
    from bebert_ray.config import ResourcesConfig

    started = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resources.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(resources.ray, "init", lambda **options: started.append(options))
    monkeypatch.setattr(resources.ray, "shutdown", lambda: None)
    monkeypatch.setattr(resources, "live_nodes", lambda: [])
    monkeypatch.setattr(resources, "_watched", lambda _: nullcontext())
    monkeypatch.setattr(resources, "available_cpus", lambda: 3)
    for asked, expected in ((None, 3), (5, 5)):
        with resources.connected(ResourcesConfig(num_cpus=asked)):
            assert started.pop()["num_cpus"] == expected


def test_more_cpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"resources.num_cpus = 17: this machine has 2 CPUs; .* 16"):
        check_cpus(17)
    check_cpus(16)
    check_cpus(None)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check_cpus(17)
