"""Tables for the console: the plan, the scores, the status."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bebert_ray.pipeline.resources import Allotment, Allotments, Node
from bebert_ray.pipeline.results import Packed
from bebert_ray.reporting.status import Row, Status
from bebert_ray.reporting.tables import _duration, print_plan, print_status, print_table
from bebert_ray.storage import Location


def status_lines(*rows, **more):
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
    lines = status_lines(Row("teacher", "done"), FULL)
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
    lines = status_lines(Row("teacher", "waiting"))
    assert lines[3].split() == ["step", "state"]
    assert len(lines) == 5


def test_the_time_left():
    assert status_lines(FULL, seconds_left=4000.0)[-1].endswith("51%; about 67 min left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text


def test_a_driver_that_nobody_can_see():
    assert status_lines(FULL, driver="unknown", holder="")[2] == "driver: unknown"


# --- scores and plan ---


@pytest.fixture
def results(mnli_results):
    return mnli_results


def printed(results):
    out = io.StringIO()
    print_table(results, Console(file=out, width=120))
    return out.getvalue()


def rows(results):
    """Cells of the table's rows, by the first of each."""
    lines = [line.split("│")[1:-1] for line in printed(results).splitlines() if "│" in line]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_table_sets_the_models_side_by_side(results):
    table = rows(results)
    assert list(table) == [
        *("teacher", "half", "ternary", "member 000", "member 001", "ensemble of 2")
    ]
    assert table["half"] == [
        *("0.8200", "0.8210", "0.8300", "0.8310"),  # both metrics on both dev splits
        *("0.8100", "", "25.00", "4.0x", "20"),  # held out, alpha, MB, smaller, seconds
    ]
    assert table["member 001"][-4:] == ["0.500", "1.00", "100.0x", "8"]
    # The ensemble is as large as its members together, and took all that was done.
    assert table["ensemble of 2"][-4:] == ["", "2.00", "50.0x", "75"]
    assert "…" not in printed(results)


def test_selection_on_dev_is_said_beneath_the_table(results):
    assert "split that is reported" not in printed(results)
    text = printed(replace(results, selection="dev"))
    assert "Choices were made on the split that is reported" in text
    assert "held-out" not in text


def test_an_early_end_is_said_beneath_the_table(results):
    note = "member 002 makes no errors to learn from: boosting ends with it"
    assert printed(replace(results, note=note)).rstrip().endswith(note)


def test_the_packed_model_is_told_of_beneath_the_table(results):
    sizes = {"weights": 10_620_000, "scales": 490_000, "floats": 1_800_000, "file": 12_970_000}
    packed = Packed("fp16", sizes, results.scores, 0.001234)
    text = printed(replace(results, packed=packed))
    assert f"packed model: {results.run}/model, 12.97 MB on disk (binary weights 10.62" in text
    assert "scales 0.49, fp16 floats 1.80)" in text
    assert "loaded again: dev matched accuracy 0.5700\n" in text
    assert "a logit of a member differs by 0.0012 from the one that was scored" in text
    same = replace(results, packed=replace(packed, logit_difference=0.0))
    assert "differs" not in printed(same)
    assert replace(results, packed=packed).everything()["packed"]["bytes"] == sizes


def test_the_plan_says_what_runs_and_on_what():
    out = io.StringIO()
    print_plan(
        {"teacher": "done", "member 000": "run (inputs changed: seed)"},
        Allotments(Allotment(8), Allotment(4, 0.5, 1.5e9), together=4, in_flight=2),
        [Node(8, 1, 32e9), Node(8, 0, 16e9)],
        Location.parse("/runs/mnli"),
        Console(file=out, width=120),
    )
    text = out.getvalue()
    assert "run directory: /runs/mnli" in text
    assert "machines: 8 CPUs, 1 GPU, 32.0 GB; 8 CPUs, 16.0 GB" in text
    assert "needed: 8 CPUs a stage; 4 CPUs, 0.5 GPU, 1.5 GB a member, 2 at a time" in text
    assert "run (inputs changed: seed)" in text


def test_a_long_plan_is_told_in_short():
    out = io.StringIO()
    members = [f"member {member:03d}" for member in range(256)]
    print_plan(
        {"teacher": "done"} | dict.fromkeys(members, "run"),
        Allotments(Allotment(8), Allotment(1), together=256, in_flight=8),
        [Node(8, 0, 16e9)],
        Location.parse("/runs/mnli"),
        Console(file=out, width=120),
    )
    text = out.getvalue()
    assert all(words in text for words in ("teacher", "member 000", "… 254 more", "member 255"))
    assert "member 001" not in text


def test_flips_and_baselines_are_told(results):
    results = replace(
        results,
        members=[replace(member, flipped=0.0125) for member in results.members],
        baselines={"split": {"score": 0.8, "p": 0.031}, "best": {"score": 0.7, "p": None}},
        diagnostics={"disagreement": 0.05, "error_correlation": 0.45},
    )
    text = printed(results)
    assert "flipped" in text
    assert "1.25%" in text
    rows = [line.split() for line in text.replace("│", " ").splitlines()]
    gain = f"{results.ensemble - 0.8:+.4f}"
    assert ["split", "0.8000", gain, "0.031"] in rows
    assert ["best", "0.7000", f"{results.ensemble - 0.7:+.4f}"] in rows
    assert "5.0% of predictions differ, errors correlate by 0.45" in text
    regression = printed(replace(results, diagnostics={"error_correlation": 0.45}))
    assert "pairs of members: errors correlate by 0.45" in regression
