"""Chaos: when a run is killed, and how its end is judged; then a few real kills."""

import json
import subprocess
import sys
from pathlib import Path

import chaos
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "chaos.py"


@pytest.mark.parametrize(
    ("fraction", "events", "seconds"),
    [
        (0.0, 0, 0.0),
        (0.1, 0, 4.0),  # nothing has been heard of the run yet
        (0.25, 1, 0.0),
        (0.5, 2, 8.0),
        (0.99, 3, 9.6),
    ],
)
def test_a_moment_is_told_by_the_event_before_it(fraction, events, seconds):
    timeline = chaos.Timeline(events=[10.0, 12.0, 30.0], end=40.0, stages={})
    moment = timeline.moment(fraction)
    assert (moment.events, moment.seconds) == (events, pytest.approx(seconds))


def run_directory(directory):
    """A run as it may end."""
    for name, content in {
        "teacher/model.safetensors": b"teacher",
        "members/000/model.safetensors": b"member",
        "members/000-round-0/logits.safetensors": b"logits",
        "weights/000.npy": b"weights",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    results = {
        "run": str(directory),
        "alphas": [0.5],
        "seconds": {"members": [3.0]},
        "models": [{"name": "member 000", "bits": 8, "seconds": 3.0}],
        "config": {"seed": 1, "output": str(directory)},
    }
    (directory / "results.json").write_text(json.dumps(results))
    return directory


def test_runs_are_the_same_but_for_their_place_and_times(tmp_path):
    one, other = run_directory(tmp_path / "one"), run_directory(tmp_path / "other")
    text = (other / "results.json").read_text().replace("3.0", "4.0")
    (other / "results.json").write_text(text)
    assert chaos.bits(one) == chaos.bits(other)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("teacher/model.safetensors", "teacher", "Teacher"),
        ("members/000/model.safetensors", "member", "membes"),
        ("members/000-round-0/logits.safetensors", "logits", "logit"),
        ("weights/000.npy", "weights", "weightS"),
        ("results.json", "0.5", "0.50001"),
        ("results.json", '"bits": 8', '"bits": 9'),
        ("results.json", '"seed": 1', '"seed": 2'),
    ],
)
def test_any_other_difference_is_noticed(tmp_path, name, before, after):
    one, other = run_directory(tmp_path / "one"), run_directory(tmp_path / "other")
    text = (other / name).read_text()
    assert before in text
    (other / name).write_text(text.replace(before, after))
    ours, theirs = chaos.bits(one), chaos.bits(other)
    [different] = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    assert different.startswith(name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_of_each_kind_changes_no_bit(tmp_path):
    job = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "4", "--output", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    result = json.loads(job.stdout.splitlines()[-1])
    assert result["same"] == 4
    assert [trial["kind"] for trial in result["trials"]] == ["worker", "queue", "node", "driver"]
