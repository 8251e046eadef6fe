"""What is shown while a run trains."""

import io
import json

import pytest
from rich.console import Console

from bebert_ray import progress
from bebert_ray.progress import Board


def event(stage="teacher", step=1, score=None):
    return {
        "stage": stage,
        "epoch": 1,
        "epochs": 2,
        "step": step,
        "steps": 20,
        "loss": 0.5,
        "learning_rate": 1e-4,
        "examples_per_second": 123.4,
        "score": score,
    }


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as they are told to."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def shown():
    return io.StringIO()


def test_a_log_gets_a_line_every_so_often_and_one_for_each_score(tmp_path, clock, shown):
    with Board(tmp_path, Console(file=shown, width=120)) as board:
        for step in range(1, 5):
            board.show(event(step=step))  # within the same 15 seconds
        clock[0] = 14
        board.show(event(step=5))
        clock[0] = 16
        board.show(event(step=6))
        board.show(event(step=7, score=0.8125))
        board.show(event("half", step=1))
    assert shown.getvalue().splitlines() == [
        "teacher: epoch 1/2  step 1/20  loss 0.5000  123 examples/s",
        "teacher: epoch 1/2  step 6/20  loss 0.5000  123 examples/s",
        "teacher: epoch 1/2  step 7/20  loss 0.5000  123 examples/s  held-out 0.8125",
        "half: epoch 1/2  step 1/20  loss 0.5000  123 examples/s",
    ]
    assert "\x1b" not in shown.getvalue()


def terminal(shown, kind):
    return Console(file=shown, width=120, force_terminal=True, _environ={"TERM": kind})


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path, shown):
    with Board(tmp_path, terminal(shown, "dumb")) as board:
        board.show(event("teacher", step=10))
    assert "teacher: epoch" in shown.getvalue()


def test_a_terminal_gets_a_bar_for_each_stage(tmp_path, shown):
    console = terminal(shown, "xterm-256color")
    with Board(tmp_path, console) as board:
        board.show(event("teacher", step=10))
        board.show(event("member 000", step=20, score=0.75))
    text = shown.getvalue()
    assert "\x1b" in text
    assert "step 10/20" in text
    assert "member 000" in text
    assert "held-out 0.7500" in text


def test_every_event_is_recorded_and_an_earlier_record_kept(tmp_path, shown):
    for step in (1, 2):
        with Board(tmp_path, Console(file=shown)) as board:
            board.show(event(step=step))
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert len(lines) == step, "at once: a killed run must leave it"
    first = json.loads(lines[0])
    assert first.pop("time") > 1.6e9
    assert first == event(step=1)
