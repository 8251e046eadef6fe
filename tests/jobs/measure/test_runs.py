"""What is made of the events and scores of runs; the runs themselves are in tests/jobs."""

import io
import json
from pathlib import Path

import pytest
from measure.runs import KINDS, SCHEDULES, print_schedules, schedules_summary, times
from rich.console import Console

from bebert_ray.config import load_config
from bebert_ray.config.recipes import kind_of

SCRIPT = Path(__file__).resolve().parents[3] / "jobs" / "benchmark.py"


def event(time, kind, stage):
    return {"time": time, "kind": kind, "stage": stage}


def test_the_time_with_no_member_in_training():
    events = [
        event(100.0, "start", "driver"),
        event(110.0, "start", "member 000"),
        event(112.0, "start", "member 001"),
        event(115.0, "progress", "member 000"),
        event(120.0, "done", "member 000"),  # member 001 is in training still
        event(125.0, "start", "member 000"),
        event(126.0, "done", "member 000"),
        event(130.0, "done", "member 001"),  # none is
        event(132.0, "start", "member 001"),
        event(150.0, "done", "member 001"),
        event(151.0, "boost", "member 001"),
    ]
    assert times(events) == (50.0, 2 / 40)


def test_a_restarted_member_is_in_training_until_it_is_done():
    events = [
        event(0.0, "start", "driver"),
        event(1.0, "start", "member 000"),
        event(4.0, "restart", "member 000"),
        event(5.0, "start", "member 000"),
        event(9.0, "done", "member 000"),
    ]
    assert times(events) == (9.0, 0.0)


SECONDS = {"sequential": 100.0, "sequential-all-cpus": 80.0, "pipelined": 50.0, "parallel": 40.0}
OUTCOMES = [
    {
        "schedule": schedule,
        "seed": seed,
        "turn": 0,
        "seconds": seconds * seed,
        "outside": 0.01,
        "ensemble": 0.7 + seed / 100,
        "members": [0.7, 0.8],
    }
    for seed in (1, 3)
    for schedule, seconds in SECONDS.items()
]


def test_ratios_medians_and_means():
    figures = schedules_summary(OUTCOMES)
    assert figures["ratios"] == {
        "pipelined/sequential": 0.5,
        "parallel/sequential": 0.4,
        "pipelined/sequential-all-cpus": 0.625,
    }
    assert figures["schedules"]["pipelined"] == {
        "seconds": 100.0,
        "outside": 0.01,
        "ensemble": 0.72,
    }
    assert len(figures["outcomes"]) == len(OUTCOMES)


def test_the_table_has_a_column_for_each_seed():
    shown = io.StringIO()
    print_schedules(OUTCOMES, Console(file=shown, width=120))
    assert "dev, seed 1" in shown.getvalue()
    assert "dev, seed 3" in shown.getvalue()
    [row] = [line for line in shown.getvalue().splitlines() if "pipelined " in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("pipelined", "100", "1.0%", "0.7100", "0.7300", "0.7200")
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_a_valid_configuration_whatever_the_given_one_is(schedule):
    given = ["task=sst2", "member.epochs=4", "ensemble.schedule=pipelined", "ensemble.rounds=2"]
    config = load_config(None, [*given, *SCHEDULES[schedule]])
    assert config.rounds == (2 if schedule == "pipelined" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_valid_configuration(kind):
    config = load_config(None, ["task=sst2", *KINDS[kind]])
    assert kind.startswith(config.bits)
    assert kind_of(config).stages[-1].bits == config.bits


def test_the_command_line_offers_every_schedule_and_kind():
    text = SCRIPT.read_text()
    assert f"SCHEDULES = {json.dumps(list(SCHEDULES))}" in text
    assert f"KINDS = {json.dumps(list(KINDS))}" in text
