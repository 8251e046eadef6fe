"""The augmented copies on a real Ray of two CPUs: the same from any number of workers."""

import io
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from rich.console import Console

from bebert_ray.cluster.augment import make_augmented
from bebert_ray.cluster.resources import Allotment, Allotments, connected
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.pipeline.augmentation import find_augmented
from bebert_ray.pipeline.prepare import open_run, prepare
from bebert_ray.reporting.progress import Board
from bebert_ray.reporting.status import look
from bebert_ray.storage import Location

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ALLOTMENTS = Allotments(Allotment(1), Allotment(1), together=1, in_flight=1)


@pytest.fixture
def data(tmp_path):
    """Four parts of examples."""
    words = ["good", "bad", "film", "movie", "plot", "food", "story"]
    rng = np.random.default_rng(0)
    for name, count in (("train", 1100), ("dev", 20)):
        lines = [f"{' '.join(rng.choice(words, 8))}\t{'ab'[i % 2]}" for i in range(count)]
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def settings(tiny_run, data, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return [*tiny_run, f"data.path={data}", "data.augment.copies=20", "data.augment.candidates=4"]


def opened(settings, output):
    prepared = prepare(load_config(None, [*settings, f"output={output}"]))
    open_run(prepared)
    return prepared


def made(prepared, cpus, report=lambda _: None):
    with connected(ResourcesConfig(num_cpus=cpus)):
        return make_augmented(prepared, report, ALLOTMENTS)


def one_worker(settings, output):
    """Make the copies in a process group that can be killed with all of Ray."""
    os.setsid()
    made(opened(settings, output), 1)


def contents(prepared):
    return {
        path.name: path.read_bytes()
        for path in find_augmented(prepared).path.iterdir()
        if path.name != "artifact.json"
    }


def test_one_worker_two_and_a_kill_give_the_same_bytes(settings, tmp_path):
    console, place, killed = io.StringIO(), tmp_path / "two", tmp_path / "killed"
    prepared = opened(settings, place)
    with Board(place, Console(file=console, width=120)) as board:
        copies = made(prepared, 2, board.show)
    assert f"augmented: {len(copies)} copies of 990 examples" in console.getvalue()
    assert "augmented: part 4/4" in console.getvalue()
    row = look(Location.of(place)).rows[0]
    assert (row.name, row.state, row.step) == ("augmented", "done", 4)

    process = multiprocessing.get_context("spawn").Process(
        target=one_worker, args=(settings, killed)
    )
    process.start()
    while not list(killed.glob("checkpoints/*/*.safetensors")):
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert 0 < len(list(killed.glob("checkpoints/*/*.safetensors"))) < 4
    again = opened(settings, killed)
    made(again, 1)
    assert contents(again) == contents(prepared)
    assert not list(killed.glob("checkpoints/*"))
    heard = []
    assert len(make_augmented(again, heard.append, ALLOTMENTS)) == len(copies)
    assert heard == []  # they are there, and Ray is not
