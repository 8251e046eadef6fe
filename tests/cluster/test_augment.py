"""The augmented copies on a real Ray of two CPUs: the same from any number of workers."""

import io
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
from rich.console import Console

from bebert_ray.cluster.augment import make_augmented
from bebert_ray.cluster.resources import Allotment, Allotments, connected
from bebert_ray.config import ResourcesConfig, load_config
from bebert_ray.errors import UserError
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
    return [*tiny_run, f"data.path={data}", "data.augment.copies=40", "data.augment.candidates=4"]


def run(settings, output, cpus, report=lambda _: None):
    prepared = prepare(load_config(None, [*settings, f"output={output}"]))
    open_run(prepared)
    with connected(ResourcesConfig(num_cpus=cpus)):
        copies = make_augmented(prepared, report, ALLOTMENTS)
    return prepared, copies


def killed_midway(settings, output):
    """Run in this process until half of the parts are there, then die with all of Ray."""
    os.setsid()
    run(settings, output, 1)


def contents(prepared):
    return {
        path.name: path.read_bytes()
        for path in find_augmented(prepared).path.iterdir()
        if path.name != "artifact.json"
    }


def test_any_number_of_workers_and_a_kill_give_the_same_bytes(settings, tmp_path):
    heard = []
    first, copies = run(settings, tmp_path / "one", 1, heard.append)
    assert len(copies) > 30_000
    assert heard[0]["kind"] == "start"
    assert [event["step"] for event in heard if event["kind"] == "parts"][-1] == 4
    assert "copies of 990 examples" in heard[-2]["text"]
    second, _ = run(settings, tmp_path / "two", 2)
    killed = tmp_path / "killed"
    process = multiprocessing.get_context("spawn").Process(
        target=killed_midway, args=(settings, killed)
    )
    process.start()
    while not list(killed.glob("checkpoints/*/*.safetensors")):
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    there = {path: path.stat().st_mtime_ns for path in killed.glob("checkpoints/*/*.safetensors")}
    assert 0 < len(there) < 4
    third, _ = run(settings, killed, 2)
    assert contents(first) == contents(second) == contents(third)
    assert not list(killed.glob("checkpoints/*"))
    heard.clear()
    run(settings, killed, 1, heard.append)
    assert heard == []  # they are there


def test_status_shows_them_and_errors_are_told(settings, tmp_path):
    console = io.StringIO()
    with Board(tmp_path / "run", Console(file=console, width=120)) as board:
        run(settings, tmp_path / "run", 1, board.show)
    assert "augmented: part 4/4" in console.getvalue()
    row = look(Location.of(tmp_path / "run")).rows[0]
    assert (row.name, row.state, row.step) == ("augmented", "done", 4)
    shutil.rmtree(tmp_path / "run" / "augmented")
    with pytest.raises(UserError, match="candidates: 90 is more"):
        run([*settings, "data.augment.candidates=90", "fresh=true"], tmp_path / "run", 1)
