"""The report is made anew from the files of a run, without its data and models."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from bebert_ray.errors import UserError
from bebert_ray.pipeline.results import to_json
from bebert_ray.reporting.report import draw_report, load_results, write_report
from bebert_ray.storage import Location, write_atomic


@pytest.fixture
def run(results, tmp_path):
    """A run directory with results alone."""
    write_atomic(tmp_path / "results.json", to_json(results.everything(), indent=2))
    return Location.of(tmp_path)


def test_a_report_is_made_anew(results, run):
    draw_report(replace(results, run=str(run)), run)
    before = {path.name: path.read_bytes() for path in run.local.iterdir()}
    (run.local / "report.html").write_text("damaged")
    (run.local / "scores.png").unlink()
    text = io.StringIO()
    read = write_report(run, Console(file=text, width=120))
    assert read == replace(results, run=str(run)), "it is where it was found"
    assert "ensemble of 2" in text.getvalue()
    assert {path.name: path.read_bytes() for path in run.local.iterdir()} == before
    assert before["scores.png"].startswith(b"\x89PNG")


def test_results_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"results\.json does not exist"):
        load_results(Location.of(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be used"),
        ("[1]", "no JSON object"),
        ('{"version": 1}', "missing or wrong"),
        ('{"version": 99}', "newer version"),
        ("{}", "older version"),
        ("\ufeffx" * 5000, "cannot be used"),
    ],
)
def test_results_that_cannot_be_read(run, text, message):
    (run.local / "results.json").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        write_report(run, Console(file=io.StringIO()))
    assert len(str(caught.value)) < 500
    assert [path.name for path in run.local.iterdir()] == ["results.json"], "nothing is written"


def test_bytes_that_are_no_text(run):
    (run.local / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be used"):
        load_results(run)


def test_a_report_needs_neither_torch_nor_ray():
    code = (
        "import sys, bebert_ray.reporting.report\n"
        "print({'torch', 'ray', 'datasets', 'sklearn'} & set(sys.modules))"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout.strip() == "set()"


def test_results_hold_what_scripts_read(run, results):
    content = json.loads((run.local / "results.json").read_text())
    assert content["version"] == 1
    assert content["predictions"]["labels"][:2] == [0, 0]
    assert content.items() >= json.loads(to_json(results.summary())).items()
