"""A status for people."""

import io

import pytest
from rich.console import Console

from bebert_ray.reporting.status import Row, Status
from bebert_ray.reporting.status_table import _duration, print_status


def printed(*rows, **more):
    about = {
        "run": "/runs/[mrpc]",
        "task": "mrpc",
        "bits": "1-1-8",
        "method": "boosting",
        "schedule": "pipelined",
        "rounds": 3,
        "seed": 42,
        "driver": "at work",
        "holder": "process 7 on here",
        "seconds_left": None,
        "results": None,
    }
    text = io.StringIO()
    console = Console(file=text, width=120, markup=False, highlight=False)
    print_status(Status(rows=list(rows), **about | more), console)
    return [line.rstrip() for line in text.getvalue().splitlines()]


FULL = Row(
    name="member 000",
    state="running",
    round=1,
    epoch=11,
    epochs=12,
    step=10_101,
    steps=20_000,
    loss=0.5,
    held_out=0.81234,
    dev=0.7,
    error=0.2,
    alpha=1.25,
    examples_per_second=1234.5,
    memory=12 * 10**9,
    seconds=1234.5,
    seen=3.0,
    restarts=2,
    work=20_000,
    work_done=10_101,
)


def test_a_line_for_each_step_fits_in_a_log():
    lines = printed(Row("teacher", "done"), FULL)
    assert lines[0] == "run directory: /runs/[mrpc]"
    assert lines[1] == "mrpc, bits 1-1-8, boosting, pipelined in rounds 0 to 2, seed 42"
    assert lines[2] == "driver: at work (process 7 on here)"
    assert lines[4] == "teacher     done"
    assert lines[5].split() == [
        *("member", "000", "running", "1", "11/12", "10101/20000", "0.5000", "0.8123", "0.7000"),
        *("0.200", "1.250", "1234", "12.0", "1234", "3", "s", "ago", "2"),
    ]
    assert lines[6] == "training steps: 10101 of 20000, 51%"
    assert len(lines) == 7


def test_what_no_step_has_takes_no_column():
    lines = printed(Row("teacher", "waiting"))
    assert lines[3].split() == ["step", "state"]
    assert len(lines) == 5


def test_the_time_left():
    assert printed(FULL, seconds_left=4000.0)[-1].endswith("51%; about 67 min left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_a_driver_that_nobody_can_see():
    assert printed(FULL, driver="unknown", holder="")[2] == "driver: unknown"
