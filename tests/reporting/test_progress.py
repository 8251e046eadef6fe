"""What is shown while a run trains."""

import io

import pytest
from rich.console import Console

from bebert_ray.reporting import progress
from bebert_ray.reporting.events import read_events
from bebert_ray.reporting.progress import Board
from bebert_ray.storage import Location


def event(stage="teacher", step=1, score=None, round=None):
    return {
        "kind": "progress",
        "stage": stage,
        "epoch": 1,
        "epochs": 2,
        "step": step,
        "steps": 20,
        "loss": 0.5,
        "learning_rate": 1e-4,
        "examples_per_second": 123.4,
        "memory": 10**9,
        "score": score,
        "round": round,
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


PLAIN = {"width": 120, "soft_wrap": True, "highlight": False}


def log(shown):
    return Console(file=shown, **PLAIN)


def terminal(shown, kind="xterm-256color"):
    return Console(file=shown, force_terminal=True, _environ={"TERM": kind}, **PLAIN)


def test_a_log_gets_a_line_every_so_often_and_one_for_each_score(tmp_path, clock, shown):
    with Board(tmp_path, log(shown)) as board:
        for step in range(1, 5):
            board.show(event(step=step))  # within the same 15 seconds
        clock[0] = 14
        board.show(event(step=5))
        clock[0] = 16
        board.show(event(step=6))
        board.show(event(step=7, score=0.8125))
        board.show(event("half", step=1))
        board.show(event("member 000", step=2, round=1))
    assert shown.getvalue().splitlines() == [
        "teacher: epoch 1/2  step 1/20  loss 0.5000  123 examples/s",
        "teacher: epoch 1/2  step 6/20  loss 0.5000  123 examples/s",
        "teacher: epoch 1/2  step 7/20  loss 0.5000  123 examples/s  held-out 0.8125",
        "half: epoch 1/2  step 1/20  loss 0.5000  123 examples/s",
        "member 000 round 1: epoch 1/2  step 2/20  loss 0.5000  123 examples/s",
    ]
    assert "\x1b" not in shown.getvalue()


BOOST = {"kind": "boost", "stage": "member 001", "round": 1, "error": 0.2134, "alpha": 0.651}
RESTART = {
    "kind": "restart",
    "stage": "member 001",
    "node": "worker-7",
    "reason": "killed for want of memory",
    "attempt": 2,
    "limit": 4,
}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (BOOST, "member 001 round 1: weighted error 0.213, alpha 0.65"),
        (BOOST | {"round": None}, "member 001: weighted error 0.213, alpha 0.65"),
        (BOOST | {"round": None, "error": None}, "member 001: alpha 0.65"),
        (
            RESTART,
            "member 001: its process on node worker-7 died (killed for want of memory); "
            "attempt 2 of 4 goes on from its checkpoint",
        ),
        (
            RESTART | {"node": ""},
            "member 001: its process died (killed for want of memory); "
            "attempt 2 of 4 goes on from its checkpoint",
        ),
        (
            {"kind": "note", "stage": "member 001", "text": "waits for room"},
            "member 001: waits for room",
        ),
    ],
)
@pytest.mark.parametrize("console", [log, terminal])
def test_what_happens_to_a_step_is_one_line(tmp_path, shown, told, line, console):
    with Board(tmp_path, console(shown)) as board:
        board.show(told)
    assert line in shown.getvalue()


def test_of_what_only_a_file_wants_to_know_nothing_is_shown(tmp_path, shown):
    with Board(tmp_path, log(shown)) as board:
        board.show({"kind": "start", "stage": "teacher", "node": "worker-7", "pid": 12})
        board.show({"kind": "done", "stage": "teacher", "round": None})
    assert shown.getvalue() == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path, shown):
    with Board(tmp_path, terminal(shown, "dumb")) as board:
        board.show(event("teacher", step=10))
    assert "teacher: epoch" in shown.getvalue()


def test_a_terminal_gets_a_bar_for_each_step_at_work(tmp_path, shown):
    with Board(tmp_path, terminal(shown)) as board:
        board.show(event("teacher", step=10))
        board.show(event("member 000", step=20, score=0.75, round=0))
    text = shown.getvalue()
    assert "\x1b" in text
    assert "step 10/20" in text
    assert "member 000 round 0" in text
    assert "held-out 0.7500" in text


def test_the_bar_of_a_finished_step_becomes_a_line(tmp_path, shown):
    with Board(tmp_path, terminal(shown)) as board:
        board.show(event("teacher", step=20, score=0.75))
        board.show({"kind": "done", "stage": "teacher", "round": None})
        board.show({"kind": "done", "stage": "split", "round": None})  # it never had one
        line = "teacher: epoch 1/2  step 20/20  loss 0.5000  123 examples/s  held-out 0.7500"
        assert line in shown.getvalue()
        shown.seek(0)
        shown.truncate()
        board.show(event("half", step=3))
    assert "step 3/20" in shown.getvalue()
    assert "teacher" not in shown.getvalue()


def test_the_bar_of_a_member_comes_back_for_the_next_round(tmp_path, shown):
    with Board(tmp_path, terminal(shown)) as board:
        board.show(event("member 000", step=10, round=0))
        board.show({"kind": "done", "stage": "member 000", "round": 0})
        board.show(event("member 000", step=12, round=1))
    assert "step 12/20" in shown.getvalue().rpartition("member 000 round 1")[2]


def test_all_is_recorded(tmp_path, shown):
    with Board(tmp_path, log(shown)) as board:
        board.show(event(step=7))
        board.show(BOOST)
    assert [each["kind"] for each in read_events(Location.of(tmp_path))][1:] == [
        "progress",
        "boost",
    ]


def test_a_disk_that_is_full_is_told_of_once(tmp_path, shown, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bebert_ray.reporting.events._append", full)
    with Board(tmp_path, log(shown)) as board:
        for step in range(3):
            board.show(event(step=step, score=0.5))
    warning, *lines = shown.getvalue().splitlines()
    assert warning == (
        "warning: progress cannot be recorded at present; the run goes on: "
        f"cannot write in {tmp_path}: No space left on device"
    )
    assert len(lines) == 3
