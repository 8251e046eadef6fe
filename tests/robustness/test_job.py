"""The command on a real Ray."""

import json

import pytest

from bebert_ray.cli.main import main


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_a_run_is_measured_over_ray_and_reported(run, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    command = ["robustness", str(run), "--suite", "typos=0.2,0.5", "--suite", "bits=0.1"]
    assert main([*command, "--json", str(figures)]) == 0
    out = capsys.readouterr().out.splitlines()
    summary = json.loads(out[-1])
    assert set(summary["areas"]) == {"typos", "bits"}
    assert {"teacher", "member 001", "ensemble of 2"} < set(summary["areas"]["typos"])
    assert any("mean member" in line for line in out)
    everything = json.loads(figures.read_text())
    assert everything["suites"][0]["areas"] == summary["areas"]["typos"]
    assert json.loads((run / "robustness.json").read_text()) == everything
    assert "<h2>Robustness</h2>" in (run / "report.html").read_text()
    assert main(["report", str(run), "--quiet"]) == 0
    assert "<h2>Robustness</h2>" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "typo"], "did you mean typos?"),
        (["--suite", "typos=2"], "a strength is a number above 0 and at most 1"),
        (["--file", "nil.json"], "--file nil.json: cannot be read"),
        (["--model", "./nil"], "--model"),
        (["--json", "/nil/x.json"], "its directory does not exist"),
        (["--json", "/"], "is a directory; name a file"),
    ],
)
def test_wrong_input_ends_before_ray_starts(run, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("bebert_ray.robustness.run.connected", None)
    assert main(["robustness", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error) < 500
