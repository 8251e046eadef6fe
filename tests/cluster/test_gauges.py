"""Gauges on a real Ray, as Prometheus reads them."""

import re
import time
from contextlib import suppress
from urllib.request import urlopen

import pytest

from bebert_ray.cluster.gauges import Gauges
from bebert_ray.cluster.resources import connected
from bebert_ray.config import ResourcesConfig

pytestmark = pytest.mark.cluster

PROGRESS = {
    "kind": "progress",
    "stage": "member 001",
    "epoch": 1,
    "epochs": 2,
    "step": 3,
    "steps": 20,
    "loss": 0.5,
    "learning_rate": 1e-4,
    "examples_per_second": 123.5,
    "memory": 2**30,
    "score": None,
    "round": 0,
}


def scrape(address, run):
    """The values of a run's gauges by (name, stage)."""
    pattern = re.compile(r'^ray_bebert_ray_(\w+){.*run="([^"]*)".*stage="([^"]*)".*} (\S+)$', re.M)
    with urlopen(f"http://{address}/metrics", timeout=5) as answer:
        found = pattern.findall(answer.read().decode())
    return {(name, stage): float(value) for name, of, stage, value in found if of == run}


def test_prometheus_sees_what_the_steps_report(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "100")
    with connected(ResourcesConfig(num_cpus=1)):
        gauges = Gauges("/runs/mrpc")
        gauges.show(PROGRESS | {"loss": 0.75})
        gauges.show(PROGRESS)
        gauges.show({"kind": "note", "stage": "member 001", "text": "waits"})
        gauges.show(
            {"kind": "boost", "stage": "member 000", "round": 0, "error": 0.25, "alpha": 0.625}
        )
        [node] = ray.nodes()
        address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        wanted = {
            ("step", "member 001"): 3,
            ("loss", "member 001"): 0.5,
            ("learning_rate", "member 001"): 1e-4,
            ("examples_per_second", "member 001"): 123.5,
            ("memory_bytes", "member 001"): 2**30,
            ("weighted_error", "member 000"): 0.25,
            ("alpha", "member 000"): 0.625,
        }
        found = {}
        for _ in range(300):
            with suppress(OSError):  # the agent is not up yet
                found = scrape(address, "/runs/mrpc")
            if found == wanted:
                break
            time.sleep(0.1)
        assert found == wanted
