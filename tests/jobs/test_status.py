"""The job as people run it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import status

from bebert_ray.cli.common import run_job
from bebert_ray.config import load_config, to_dict, to_yaml
from bebert_ray.storage import commit, lock, write_atomic

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "status.py"
HEAVY = ("torch", "transformers", "ray", "datasets", "sklearn", "tensorboardX")


def run_here(*arguments):
    """The exit code of the job, run in this process."""
    return run_job(lambda: status.main([str(argument) for argument in arguments]))


def tell(run, *events):
    lines = (json.dumps({"time": time.time() - ago, **event}) for ago, event in events)
    write_atomic(run / "metrics.jsonl", "".join(f"{line}\n" for line in lines) + '{"time": 17')


@pytest.fixture
def run(tmp_path):
    """A run with a finished teacher, whose half model is at step 7 of 20."""
    config = load_config(None, ["task=mrpc", "ensemble.members=1", "half.batch_size=10"])
    write_atomic(tmp_path / "config.yaml", to_yaml(config))
    commit(tmp_path / "data", "data", {}, lambda _: {"examples": {"train": 100}})
    scores = {"train": {"accuracy": 0.9}, "selection": {"accuracy": 0.8}, "dev": {"accuracy": 0.7}}
    commit(tmp_path / "teacher", "teacher", {}, lambda _: {"scores": scores, "seconds": 61.0})
    report = {
        "kind": "progress",
        "stage": "half",
        "epoch": 1,
        "epochs": 2,
        "step": 7,
        "steps": 20,
        "loss": 0.4321,
        "learning_rate": 1e-4,
        "examples_per_second": 123.4,
        "memory": 3 * 10**9,
        "score": None,
        "round": None,
    }
    start = {"kind": "start", "stage": "driver", "node": "here", "pid": 1}
    died = {"kind": "restart", "stage": "half", "node": "", "reason": "", "attempt": 1, "limit": 3}
    tell(tmp_path, (180, start), (170, died), (130, report))
    return tmp_path


def line(text, name):
    """The cells of a line of the table."""
    [found] = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    return re.split(r"\s{2,}", found.strip())


def test_what_people_see(run, capsys):
    with lock(run):
        assert run_here(run) == 0
    text = capsys.readouterr().out
    assert f"run directory: {run}\n" in text
    assert "mrpc, bits 1-1-8, boosting, sequential, seed 42\n" in text
    assert "driver: at work (process " in text
    assert line(text, "teacher")[:2] == ["teacher", "done"]
    assert {"0.8000", "0.7000", "61"} < set(line(text, "teacher"))
    half = line(text, "half")
    assert half[:7] == ["half", "running", "1/2", "7/20", "0.4321", "123", "3.0"]
    assert half[7:] == ["130", "2 min ago", "1"]
    assert line(text, "member 000") == ["member 000", "waiting"]
    assert "training steps: 19 of 78, 24%\n" in text


def test_a_run_that_was_stopped(run, capsys):
    assert run_here(run) == 0
    text = capsys.readouterr().out
    assert "driver: not at work; give the command of the run again to go on\n" in text
    assert line(text, "half")[:4] == ["half", "stopped", "1/2", "7/20"]


def test_the_headline_of_a_finished_run(run, capsys):
    config = load_config(run / "config.yaml")
    results = {
        "metric": "accuracy",
        "teacher": 0.85,
        "members": [0.7],
        "ensemble": 0.8125,
        "models": [],
        "note": "boosting ended early",
        "config": to_dict(config),
    }
    write_atomic(run / "results.json", json.dumps(results))
    assert run_here(run) == 0
    text = capsys.readouterr().out
    assert "ensemble of 1: accuracy 0.8125 (teacher 0.8500)\nboosting ended early\n" in text
    assert "driver: not at work\n" in text


def test_scripts_get_one_json_object(run, capsys):
    assert run_here(run, "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["run"], status["task"], status["driver"]) == (str(run), "mrpc", "not at work")
    half = status["rows"][1]
    assert (half["name"], half["state"], half["step"], half["restarts"]) == (
        "half",
        "stopped",
        7,
        1,
    )


def test_looking_changes_nothing(run):
    def seen():
        paths = sorted(run.rglob("*"))
        return [
            (path, path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths
        ]

    before = seen()
    assert run_here(run) == 0
    assert seen() == before


def test_a_look_is_quick_and_loads_nothing_heavy(run):
    # 4 members, 10 hours, an event every 2 seconds.
    event = (run / "metrics.jsonl").read_text().splitlines()[-2]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n" + f"{event}\n" * 72_000)
    code = f"import runpy, sys; sys.argv = ['status.py', {str(run)!r}]\n"
    code += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    code += f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules])\n"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
    assert time.monotonic() - started < 20, "it takes about one"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: run / "nowhere", "there is no run at {}/nowhere"),
        (lambda run: run / "data", "{}/data is not a run: it has no config.yaml"),
        (lambda run: run / "metrics.jsonl", "{}/metrics.jsonl is not a run: it has no config.yaml"),
        (lambda _: "nope://bucket/run", "nope://bucket/run cannot be used"),
    ],
)
def test_what_is_no_run_is_refused(run, capsys, damage, message):
    assert run_here(damage(run)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: " + message.format(run))


@pytest.mark.parametrize(
    "content", ["", "task: mr", "{task: mrpc", "task: mrpc\nsneed: 3\n", "\x00"]
)
def test_a_damaged_configuration_is_named(run, capsys, content):
    (run / "config.yaml").write_text(content)
    assert run_here(run) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {run}/config.yaml is damaged: ")
    assert "tmp" not in printed.err.removeprefix(f"error: {run}/config.yaml")


def test_help_says_what_is_not_checked(capsys):
    with pytest.raises(SystemExit) as end:
        status.main(["--help"])
    assert end.value.code == 0
    assert "--dry-run" in capsys.readouterr().out
