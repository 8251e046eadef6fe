"""The command `bebert`, as people type it."""

import os
import subprocess
import sys

import pytest

from bebert_ray.cli.common import local_path
from bebert_ray.cli.main import COMMANDS, main
from bebert_ray.version import __version__


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bebert_ray {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(capsys, arguments):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for name, (_, what) in COMMANDS.items():
        assert f"  {name:<10} {what}" in printed


def test_without_a_command_it_shows_how_to_use_it(capsys):
    assert main([]) == 2
    assert "usage: bebert COMMAND" in capsys.readouterr().out


def test_a_command_that_does_not_exist(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_teaches(capsys, name):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: bebert {name} ")
    assert "examples:" in printed
    assert f"  bebert {name} " in printed


def test_bad_input_ends_with_two(capsys):
    assert main(["train", "task=sst2", "ensemble.membres=2"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "did you mean ensemble.members?" in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "~/x"],
        ["train", "task=custom", "data.path=~/x", "data.text_columns=[a]", "data.label_column=b"],
        ["train", "task=demo", "model=~/x"],
        ["sweep", "--config", "~/x"],
        ["predict", "--model", "~/x", "--input", "y", "--output", "z"],
        ["serve", "~/x"],
        ["status", "~/x"],
        ["report", "~/x"],
        ["inspect", "~/x"],
        ["inspect", "--config", "~/x"],
        ["export", "~/x", "y.onnx"],
        ["robustness", "~/x"],
        ["robustness", "x", "--json", "~/x/y"],
    ],
    ids=" ".join,
)
def test_every_command_expands_the_home_directory(capsys, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("- no\n")  # what is there is nothing that any of them can use
    assert main(arguments) == 2
    assert str(tmp_path / "x") in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_an_export_goes_to_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/a.onnx") == tmp_path / "a.onnx"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "--help"], 0),
        (["sweep", "--help"], 0),
        (["--help"], 0),
        (["status", "caf\u00e9"], 2),
        (["predict", "--model", "caf\u00e9", "--input", "x", "--output", "y"], 2),
        (["inspect", os.fsdecode(b"caf\xff")], 2),
        (["train", "task=demo", "output=" + os.fsdecode(b"caf\xff")], 2),
        (["caf\u00e9"], 2),
    ],
    ids=ascii,
)
def test_any_path_can_be_shown_by_any_stdout(arguments, code, tmp_path):
    command = [sys.executable, "-X", "utf8=0", "-m", "bebert_ray", *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_can_be_given_once_only(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", "mrpc", "--config", "rte"])
    assert end.value.code == 2
    assert "--config is given 2 times" in capsys.readouterr().err


def test_the_package_is_the_command_too():
    command = [sys.executable, "-m", "bebert_ray", "--version"]
    assert subprocess.check_output(command, text=True) == f"bebert_ray {__version__}\n"


def test_quiet_prints_the_last_line_alone(capsys, tmp_path, tiny_run, monkeypatch):
    from contextlib import nullcontext

    from bebert_ray.cluster.resources import Node

    nodes = nullcontext([Node(cpu=2, gpu=0, memory=8e9)])
    monkeypatch.setattr("bebert_ray.run.connected", lambda _: nodes)
    arguments = [*tiny_run, f"output={tmp_path / 'run'}", "--dry-run"]
    assert main(["-q", "train", *arguments]) == 0
    assert capsys.readouterr().out == ""
    assert main(["train", *arguments]) == 0
    assert "plan" in capsys.readouterr().out
