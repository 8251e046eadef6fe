"""The job as people run it: through its command line, on a Ray of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import ensemble
import pytest

from bebert_ray.cli.common import run_job
from bebert_ray.cluster.resources import Node
from bebert_ray.config import load_config
from bebert_ray.pipeline.config_file import keep_config
from bebert_ray.storage import Location

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "ensemble.py"


def run_here(*arguments):
    """The exit code of the job, run in this process."""
    return run_job(lambda: ensemble.main([str(argument) for argument in arguments]))


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in (os.environ | environment).items() if value},
    )


def figures(stdout):
    """The JSON object in the last line of stdout."""
    return json.loads(stdout.splitlines()[-1])


def members(output):
    """The weights of all members on disk."""
    paths = sorted((output / "members").glob("*/model.safetensors"))
    return {path.parent.name: path.read_bytes() for path in paths}


# --- bad input: one message, exit code 2, nothing written, no Ray ---


def glue(tmp_path, text):
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / "glue" / "SST-2" / f"{name}.tsv").write_text(text)
    return (
        "task=sst2",
        f"data.path={tmp_path / 'glue'}",
        "data.text_columns=null",
        "data.label_column=null",
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ensemble.membres=2", r"ensemble\.membres: unknown key; did you mean ensemble\.members\?"),
        ("ensemble.members=two", r"ensemble\.members = \"two\": must be a whole number"),
        ("width=0", r"width = 0: must be a number, above 0"),
        ("ensemble.schedule=parallel", r"boosting cannot be parallel"),
        ("data.path=/nowhere", r"/nowhere"),
        ("data.label_column=stars", r"stars.*text, label, score"),
        ("model=/nowhere", r"model: there is no directory /nowhere"),
        ("data.max_length=65", r"give at most 64"),
    ],
)
def test_a_wrong_setting(refused, override, message):
    assert re.search(message, refused(override))


def test_a_malformed_row_is_named_by_file_and_line(refused, tmp_path):
    task = glue(tmp_path, "sentence\tlabel\nfine\t1\nno label here\n")
    assert re.search(r"SST-2/train\.tsv\D*3\b", refused(*task))


def test_a_label_outside_the_task_is_named(refused, tmp_path):
    task = glue(tmp_path, "sentence\tlabel\nfine\t1\nawful\t7\n")
    assert re.search(r"train\.tsv.*7", refused(*task))


def test_a_missing_file_is_named(refused, tmp_path):
    task = glue(tmp_path, "sentence\tlabel\nfine\t1\nawful\t0\n")
    (tmp_path / "glue" / "SST-2" / "dev.tsv").unlink()
    assert "dev.tsv" in refused(*task)


def checkpoint(tmp_path, source, name, content):
    """A copy of the checkpoint `source` in which one file has another content."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for file in source.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / name).write_bytes(content)
    return f"model={directory}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model_type": "gpt2"}', "only BERT"),
        ("config.json", b"{", "not JSON"),
        ("model.safetensors", b"garbage", "cannot be read"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(
    refused, tmp_path, tiny_checkpoint, name, content, message
):
    assert message in refused(checkpoint(tmp_path, tiny_checkpoint, name, content))


def test_bundled_weights_with_another_hash(refused, monkeypatch):
    monkeypatch.setattr("bebert_ray.nn.checkpoint.BUNDLED_SHA256", 64 * "0")
    assert re.search("SHA-256 .* expected 0{64}; reinstall", refused("model=bundled"))


def test_the_directory_of_another_run(refused, tmp_path):
    keep_config(load_config(None, ["task=mrpc", "seed=7"]), Location.of(tmp_path / SCRIPT.stem))
    message = refused()
    assert "  seed: 7 there, 42 here\n" in message
    assert "  task: 'mrpc' there, 'custom' here\n" in message
    assert "fresh=true" in message


def test_a_cluster_that_does_not_answer(refused, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "Ray at 127.0.0.1:9 cannot be used" in refused("-q")  # else the configuration is printed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=sst2"], r"nyu-mll/glue \(sst2\): the hub cannot be reached.*data\.path"),
        (["task=demo", "model=some/bert"], r"model: the hub cannot be reached.*model=DIR"),
    ],
)
def test_a_hub_that_is_out_of_reach(tmp_path, overrides, message):
    """In a process of its own: the hub's library reads its settings when it is imported."""
    job = start(
        *overrides,
        f"output={tmp_path / 'run'}",
        HF_HUB_OFFLINE="",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "cache"),
    )
    out, error = job.communicate(timeout=60)
    assert job.returncode == 2, error
    assert re.search(message, error)
    assert "Traceback" not in error
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_a_mistyped_key_is_told_of_before_torch_and_ray_are_loaded():
    code = (
        f"import runpy, sys; sys.argv = ['ensemble.py', 'task=mrpc', 'sed=1']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        f"except SystemExit as end: print(end.code, {{'torch', 'ray'}} & sys.modules.keys())\n"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout == "2 set()\n"
    assert "did you mean seed?" in job.stderr


# --- real runs ---


@pytest.fixture(scope="module")
def done(tiny_run, tmp_path_factory):
    """A finished run: its arguments, its output directory and what it printed."""
    output = tmp_path_factory.mktemp("runs") / "run"
    more = ("export.remainder=fp32", "training.checkpoint_every=2", f"output={output}")
    arguments = [*tiny_run, *more]
    job = start(*arguments, RAY_ADDRESS="")
    out, error = job.communicate(timeout=240)
    assert job.returncode == 0, error
    return arguments, output, out, error


def test_a_run_prints_figures_on_stdout_and_messages_on_stderr(done):
    _, output, out, error = done
    result = figures(out)
    assert list(result) == [
        *("run", "task", "metric", "teacher", "half", "ternary", "members", "alphas"),
        *("ensemble", "seconds", "selection", "seed"),
    ]
    assert result["run"] == str(output)
    assert len(result["members"]) == len(result["alphas"]) == 2
    assert result["teacher"] > 0.6
    assert json.loads((output / "results.json").read_text())["ensemble"] == result["ensemble"]
    assert (output / "scores.png").stat().st_size > 0
    assert "an ensemble of 2" in (output / "report.html").read_text()
    assert "ensemble of 2" in out
    assert f"packed model: {output}/model" in out
    assert "loaded again" in out and "a logit of a member differs" not in out
    assert (output / "model" / "model.safetensors").exists()
    assert "held-out" in error
    assert "Traceback" not in error
    assert {line.split(":")[0] for line in error.splitlines() if "epoch" in line} == {
        *("teacher", "half", "ternary", "member 000", "member 001")
    }


def test_another_run_trains_nothing_and_prints_the_same_figures(done, capfd):
    arguments, output, out, _ = done
    before = members(output)
    report = (output / "report.html").read_bytes()
    (output / "report.html").write_text("damaged")
    assert run_here(*arguments) == 0
    printed = capfd.readouterr()
    assert figures(printed.out) == figures(out)
    assert printed.err == ""
    assert members(output) == before
    assert (output / "report.html").read_bytes() == report


def test_a_dry_run_shows_the_plan_and_writes_nothing(done, tmp_path, capfd, monkeypatch):
    arguments, output, _, _ = done
    nodes = nullcontext([Node(cpu=4, gpu=0, memory=8e9)])
    monkeypatch.setattr("bebert_ray.run.connected", lambda _: nodes)
    files = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert run_here(*arguments, "member.epochs=2", "--dry-run") == 0
    plan = capfd.readouterr().out
    assert re.search(r"split +│ done", plan)
    assert re.search(r"member 000 │ run \(inputs changed: settings\.epochs\)", plan)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == files

    assert run_here(*arguments, f"output={tmp_path / 'new'}", "--dry-run") == 0
    assert re.search(r"teacher +│ run ", capfd.readouterr().out)
    assert not (tmp_path / "new").exists()


# --- runs that are disturbed ---


def wait_until(job, condition):
    """Wait for something to become true while the job is running."""
    deadline = time.monotonic() + 200
    while not (found := condition()):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def told(output, kind, stage):
    """The events of one kind that tell of a stage or a member."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    events = [json.loads(line) for line in lines]
    return [event for event in events if (event["kind"], event["stage"]) == (kind, stage)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(job, workers):
    """Kill a driver, and wait for its workers, who are not to work on behind the next one's back.

    Returns:
        What it has printed, on stdout and stderr.
    """
    job.kill()
    printed = job.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.1)
    return printed


def kept(output):
    """All that a run has come to, but where it is and how long it took."""
    results = json.loads((output / "results.json").read_text())
    del results["run"], results["seconds"], results["checksum"], results["config"]["output"]
    for model in results["models"]:
        del model["seconds"]
    weights = {path.name: path.read_bytes() for path in (output / "weights").iterdir()}
    return members(output), weights, results


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_whatever_dies_the_same_command_again_comes_to_the_same_bits(done, tmp_path):
    """The driver dies in a stage, then a worker. Deaths in rounds: tests/cluster/test_pool.py."""
    arguments, finished, _, _ = done
    output = tmp_path / "run"
    again = [*arguments, f"output={output}"]

    job = start(*again, RAY_ADDRESS="")
    wait_until(job, lambda: list(output.glob("checkpoints/teacher/*/artifact.json")))
    kill(job, [event["pid"] for event in told(output, "start", "teacher")])

    job = start(*again, RAY_ADDRESS="")
    [begun] = wait_until(job, lambda: told(output, "start", "ternary"))
    os.kill(begun["pid"], signal.SIGKILL)
    plan, error = job.communicate(timeout=240)
    assert job.returncode == 0, error
    assert re.search(r"teacher +│ run \(from its checkpoint\)", plan)
    assert "ternary: its process" in error
    [restart] = told(output, "restart", "ternary")
    assert (restart["attempt"], restart["limit"]) == (1, 3)
    assert len(told(output, "start", "ternary")) == 2
    assert kept(output) == kept(finished)


@pytest.mark.cluster
@pytest.mark.slow
def test_bagging_of_regression_members_in_parallel(done, tmp_path, capfd):
    arguments, _, _, _ = done
    code = run_here(
        *arguments,
        f"output={tmp_path / 'run'}",
        *("data.kind=regression", "data.label_column=score", "teacher.epochs=1"),
        *("ensemble.method=bagging", "ensemble.strategy=C", "resources.num_cpus=2"),
        "resources.stage.cpu=1",
    )
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert "1 CPU, 0.5 GB a member, 2 at a time" in printed.out
    result = figures(printed.out)
    assert (result["metric"], result["alphas"]) == ("pearson", [1.0, 1.0])
    bits = members(tmp_path / "run")
    assert bits["000"] != bits["001"]
