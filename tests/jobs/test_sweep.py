"""The job as people run it: trials on a Ray of its own, killed half-way, and taken up again."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sweep

from bebert_ray.cli.common import run_job

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "sweep.py"
SPACE = (
    "sweep.space.member.learning_rate={loguniform: [1e-4, 1e-2]}",
    "sweep.space.ensemble.method={choice: [boosting, bagging]}",
)


def run_here(*arguments):
    """The exit code of the job, run in this process."""
    return run_job(lambda: sweep.main([str(argument) for argument in arguments]))


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


# --- bad input: one message, exit code 2, nothing written, no Ray ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"sweep\.space: is empty; give what to search"),
        (["sweep.space.member.epochs={randint: [3, 1]}"], r"is empty: low must be below high"),
        (["sweep.space.member.epohcs={randint: [1, 3]}"], r"did you mean member\.epochs\?"),
        (["sweep.space.width={uniform: [0.2, 1]}"], r"width: cannot be searched: trials share"),
        ([*SPACE, "sweep.trials=none"], r"sweep\.trials = \"none\": must be a whole number"),
        ([*SPACE, "data.path=/nowhere"], r"/nowhere"),
        ([*SPACE, "output=s3://bucket/sweep"], r"output: trials link to what they share"),
    ],
)
def test_bad_input(refused, overrides, message):
    assert re.search(message, refused(*overrides))


def test_a_directory_that_is_no_sweep(refused, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").touch()
    assert "not empty and not a sweep" in refused(*SPACE)


def test_members_that_fit_nowhere(tiny_run, tmp_path, capsys, monkeypatch):
    from contextlib import nullcontext

    from bebert_ray.cluster.resources import Node

    nodes = nullcontext([Node(cpu=2, gpu=0, memory=8e9)])
    monkeypatch.setattr("bebert_ray.sweeps.search.connected", lambda _: nodes)
    overrides = (*SPACE, f"output={tmp_path / 'sweep'}", "resources.num_cpus=null")
    assert run_here(*tiny_run, *overrides, "resources.member.cpu=3") == 2
    assert re.search(r"resources\.member: 3 CPUs.* fit on no machine", capsys.readouterr().err)
    assert run_here(*tiny_run, *overrides, "--dry-run") == 0
    plan = capsys.readouterr().out
    assert re.search(r"teacher +│ run ", plan)
    assert re.search(r"trial 011 +│ run ", plan)
    assert not (tmp_path / "sweep").exists()


# --- real sweeps ---


def records(output):
    paths = sorted((output / "trials").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def done(output):
    return [each["number"] for each in records(output) if each["state"] in ("done", "stopped")]


def stamps(output, numbers):
    """When the files of some trials were written."""
    return {
        path: path.stat().st_mtime_ns
        for number in numbers
        for path in (output / "trials" / f"{number:03d}" / "members").rglob("*")
    }


@pytest.fixture
def command(tiny_run, tmp_path):
    """The arguments of a sweep of two trials at a time."""
    return [
        *tiny_run,
        *SPACE,
        *("sweep.trials=2", "sweep.objective=score-and-bits", f"output={tmp_path / 'sweep'}"),
        *("resources.num_cpus=2", "resources.stage.cpu=1", "resources.member.memory=2e8"),
    ]


def finished(job):
    """What a job that ends well prints."""
    out, error = job.communicate(timeout=300)
    assert job.returncode == 0, error
    assert "Traceback" not in error
    return out, error


def check_end(output, out, trials):
    """Look at what a finished sweep leaves and prints; its closing figures."""
    after = {each["number"]: each for each in records(output)}
    assert sorted(after) == list(range(trials))
    assert {each["state"] for each in after.values()} <= {"done", "stopped"}
    figures = json.loads(out.splitlines()[-1])
    assert figures["trials"] == Counter(each["state"] for each in after.values())
    ensembles = figures["ensembles"]
    assert ensembles["swept alphas"]["held_out"] >= ensembles["its own alphas"]["held_out"]
    assert figures["best"]["held_out"] == max(each["score"] for each in after.values())
    for name in ("best.yaml", "report.html", "results.json", "best/ensemble.json"):
        assert (output / name).stat().st_size > 0
    assert list((output / "tune").rglob("events.out.tfevents.*")), "TensorBoard"
    return figures


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_sweep(command, tmp_path, capsys):
    output = tmp_path / "sweep"
    out, _ = finished(start(*command))
    figures = check_end(output, out, trials=2)

    assert run_here(*command) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1]) == figures
    assert printed.err == ""


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_sweep_that_is_killed_goes_on(command, tmp_path):
    output, command = tmp_path / "sweep", [*command, "sweep.trials=3"]
    job = start(*command)
    deadline = time.monotonic() + 250
    while len(done(output)) < 1:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    job.kill()
    _, error = job.communicate(timeout=60)
    assert "trial 000: " in error
    before = done(output)
    written = stamps(output, before)
    kept = {each["number"]: each for each in records(output)}

    out, error = finished(start(*command))
    figures = check_end(output, out, trials=3)
    after = {each["number"]: each for each in records(output)}
    for number in before:
        assert after[number] == kept[number], "no finished trial is repeated"
        assert f"trial {number:03d}: " not in error
    assert stamps(output, before) == written
    for number, record in kept.items():  # those at work go on where they were
        assert after[number]["point"] == record["point"]

    events = [json.loads(line) for line in (output / "shared" / "metrics.jsonl").open()]
    starts = Counter(event["stage"] for event in events if event["kind"] == "start")
    del starts["driver"]
    assert starts == {"teacher": 1, "half": 1, "ternary": 1, "split": 1}
    for number in after:
        events = (output / "trials" / f"{number:03d}" / "metrics.jsonl").read_text()
        assert "teacher" not in events

    again, error = finished(start(*command))
    assert error == ""
    assert json.loads(again.splitlines()[-1]) == figures
