"""The command line that all jobs share."""

import io
import os
import signal
import subprocess
import sys

import pytest

from bebert_ray.cli.common import parse_config, run_job
from bebert_ray.config import describe, load_config
from bebert_ray.errors import RunError, UserError
from bebert_ray.reporting.console import console


def job(error):
    def job():
        if error is not None:
            raise error

    return job


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (RunError("member 001 failed"), 1, "error: member 001 failed\n"),
        (UserError("data.path: no such file"), 2, "error: data.path: no such file\n"),
    ],
)
def test_how_a_job_ends(capsys, error, code, message):
    assert run_job(job(error)) == code
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", message)


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_job(job(ZeroDivisionError()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_job_in_good_order(capsys, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    left = []

    def job():
        try:
            signal.raise_signal(number)
        finally:
            left.append("in order")

    assert run_job(job) == 128 + number
    assert left == ["in order"]
    assert capsys.readouterr().err == "interrupted; give the same command again to go on\n"
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


def parse(*arguments):
    return parse_config(
        load_config, describe, "What it does.", "  bebert it task=mrpc", list(arguments)
    )


def test_flags_and_overrides_come_in_any_order(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("task: mrpc\nseed: 1\n")
    config, flags = parse("seed=2", "--config", str(file), "--dry-run", "ensemble.members=3")
    assert (config.task, config.seed, config.ensemble.members) == ("mrpc", 2, 3)
    assert flags.dry_run
    assert not parse("task=rte")[1].dry_run


def test_help_shows_examples_and_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert "bebert it task=mrpc" in text
    assert "ensemble.learning_rate" in text
    assert "shrinkage" in text


@pytest.mark.parametrize("arguments", [[], ["--dry-rum", "task=rte"]])
def test_a_wrong_command_line_shows_how_to_use_it(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        parse(*arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_wrong_key_is_the_users_error():
    with pytest.raises(UserError, match="did you mean ensemble"):
        parse("task=rte", "ensemble.member=3")


def test_text_is_printed_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    line = "/runs/[red]mrpc[/red]/:smile:/" + 20 * "long"
    console().print(line)
    console(stderr=True).print(line)
    output = capsys.readouterr()
    assert output.out == output.err == line + "\n"


def test_a_log_has_room_for_tables(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert console().width == 120


@pytest.mark.cluster
def test_a_user_without_a_home_directory_can_start_ray(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\n"
        "def unknown(*_):\n"
        "    raise KeyError('uid not found')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
    )
    program = (
        "import os, sys; from bebert_ray.cli.common import run_job\n"
        "def job():\n"
        "    import ray.train, bebert_ray.run\n"
        "    print(os.environ['HOME'])\n"
        "sys.exit(run_job(job))"
    )
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not os.path.exists(done.stdout.strip())  # it was temporary


WRITES = """
import json, sys
from bebert_ray.cli.common import console, run_job

def job():
    progress, out = console(stderr=True), console()
    for number in range(3000):
        progress.print(f"line {number}", "x" * 50)
    with open(sys.argv[1], "w") as file:
        file.write("done")
    for number in range(3000):
        print(json.dumps("y" * 50), flush=True)

sys.exit(run_job(job))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("{} 2>&1 >/dev/null | head -n 1 | wc -l; exit ${{PIPESTATUS[0]}}", 0, "1\n"),
        ("{} 2>/dev/full >/dev/null", 0, ""),
        ("{} 2>/dev/null | head -n 1 | wc -l; exit ${{PIPESTATUS[0]}}", 1, "1\n"),
        ("{} 2>&1 >/dev/full | tail -n 1; exit ${{PIPESTATUS[0]}}", 1, "error: cannot write to "),
    ],
)
def test_work_goes_on_when_nobody_reads_its_progress(tmp_path, command, code, message, unbuffered):
    done = tmp_path / "done"
    call = f"{sys.executable} -c '{WRITES}' {done}"
    ended = subprocess.run(
        ["bash", "-c", command.format(call)],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended
    assert ended.stdout.startswith(message) and ended.stderr == ""
    assert done.read_text() == "done"


def test_a_command_ends_well_without_a_stderr():
    job = "import sys; from bebert_ray.cli.common import run_job; sys.exit(run_job(print))"
    ended = subprocess.run(["bash", "-c", f"{sys.executable} -c '{job}' 2>&-"], check=False)
    assert ended.returncode == 0
