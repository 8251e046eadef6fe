"""What a run leaves of its events, whatever happens to disk, network and process."""

import json
import os
import resource
import socket
from contextlib import contextmanager

import pyarrow.fs
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bebert_ray.pipeline.layout import METRICS
from bebert_ray.reporting import events as recorder
from bebert_ray.reporting.events import Odometer, read_events, recording
from bebert_ray.storage import Location


def report(stage="teacher", step=1, steps=20, score=None, **more):
    return {
        "kind": "progress",
        "stage": stage,
        "epoch": 1,
        "epochs": 2,
        "step": step,
        "steps": steps,
        "loss": 1 / step,
        "learning_rate": 1e-4,
        "examples_per_second": 123.5,
        "memory": 2**30,
        "score": score,
        "round": None,
    } | more


def say(round, error, alpha):
    return {
        "kind": "boost",
        "stage": "member 001",
        "round": round,
        "error": error,
        "alpha": alpha,
    }


@pytest.fixture
def run(tmp_path):
    return Location.of(tmp_path)


@pytest.fixture
def store(tmp_path):
    """A run directory that nothing can be appended to, as in an object store; and its disk."""
    disk = tmp_path / "store"
    disk.mkdir()
    filesystem = pyarrow.fs.SubTreeFileSystem(str(disk), pyarrow.fs.LocalFileSystem())
    return Location(filesystem, "run", "store://bucket/run"), disk / "run"


def record(run, *events):
    warnings = []
    with recording(run, warnings.append) as into:
        for event in events:
            into.write(event)
    return warnings


def curves(directory):
    """What TensorBoard shows: (step, value) by tag."""
    board = EventAccumulator(str(directory))
    board.Reload()
    return {
        tag: [(point.step, pytest.approx(point.value)) for point in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


@contextmanager
def file_limit(size):
    """Lets no file grow beyond `size` bytes, as on a disk with that much room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- metrics.jsonl ---


def test_each_event_is_there_at_once_with_its_time(run):
    with recording(run, pytest.fail) as into:
        into.write(report(step=3))
        start, event = map(json.loads, (run.local / METRICS).read_text().splitlines())
    assert event.pop("time") > 1.6e9
    assert event == report(step=3)
    assert start.pop("time") > 1.6e9
    here = {"node": socket.gethostname(), "pid": os.getpid()}
    assert start == {"kind": "start", "stage": "driver", **here}


def test_what_was_recorded_before_is_kept(run):
    record(run, report(step=1))
    record(run, report(step=2))
    kinds = [event["kind"] for event in read_events(run)]
    assert kinds == ["start", "progress", "start", "progress"]


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_torn_line_is_passed_over_and_spoils_no_other(run, cut):
    record(run, report(step=1), report(step=2))
    path = run.local / METRICS
    os.truncate(path, path.stat().st_size - cut)
    # A line without its end may be whole.
    steps = [1, 2] if cut == 1 else [1]
    assert [event["step"] for event in read_events(run) if "step" in event] == steps
    record(run, report(step=3))
    assert [event["step"] for event in read_events(run) if "step" in event] == [*steps, 3]


@pytest.mark.parametrize("line", ["", "null", "[1]", '{"stage": "teacher"}', "\x00\x00", "{"])
def test_lines_that_are_no_events_are_passed_over(run, line):
    (run.local / METRICS).write_text(f'{line}\n{{"kind": "note", "stage": "half"}}\n')
    assert [event["kind"] for event in read_events(run)] == ["note"]


def test_no_run_no_events(run):
    assert read_events(run / "nowhere") == []


# --- a disk that is full ---


def test_a_full_disk_is_warned_of_once_and_tears_nothing(run):
    with file_limit(10_000):
        warnings = record(run, *(report(step=step) for step in range(1, 100)))
        kept = read_events(run)
    assert len(warnings) == 1
    assert "File too large" in warnings[0]
    assert "progress is not recorded for now, the run goes on" in warnings[0]
    assert 10 < len(kept) < 60
    assert (run.local / METRICS).read_bytes().endswith(b"\n")


def test_recording_goes_on_once_there_is_room(run):
    warnings = []
    with recording(run, warnings.append) as into:
        with file_limit(100):
            into.write(report(step=1))
        into.write(report(step=2))
        with file_limit(100):
            into.write(report(step=3))
        into.write(report(step=4))
    assert len(warnings) == 1
    assert [event.get("step") for event in read_events(run)] == [None, 2, 4]
    losses = curves(run.local / "tensorboard" / "teacher")["loss"]
    assert losses == [(2, 1 / 2), (4, 1 / 4)]


# --- TensorBoard ---


def test_tensorboard_gets_every_curve(run):
    record(
        run,
        report("member 001", step=10, score=None),
        report("member 001", step=20, score=0.75),
        say(0, 0.3, 0.4),
        say(1, 0.2, 0.6),
    )
    assert curves(run.local / "tensorboard" / "member-001") == {
        "loss": [(10, 0.1), (20, 0.05)],
        "learning_rate": [(10, 1e-4), (20, 1e-4)],
        "examples_per_second": [(10, 123.5), (20, 123.5)],
        "memory": [(10, 2**30), (20, 2**30)],
        "held_out_score": [(20, 0.75)],
        "weighted_error": [(0, 0.3), (1, 0.2)],
        "alpha": [(0, 0.4), (1, 0.6)],
    }


def test_a_member_without_rounds_has_one_say(run):
    record(run, say(None, None, 1.0))
    assert curves(run.local / "tensorboard" / "member-001") == {"alpha": [(0, 1.0)]}


def test_the_fits_of_a_step_stand_side_by_side_also_after_a_restart(run):
    record(run, report("ternary", step=5, steps=10), report("ternary", step=10, steps=10))
    record(run, report("ternary", step=8, steps=20), report("ternary", step=20, steps=20))
    losses = curves(run.local / "tensorboard" / "ternary")["loss"]
    assert [step for step, _ in losses] == [5, 10, 18, 30]


@pytest.mark.parametrize(
    ("reports", "done"),
    [
        ([(5, 20), (20, 20)], [5, 20]),
        ([(10, 10), (3, 20), (20, 20)], [10, 13, 30]),  # another fit
        ([(10, 10), (3, 10), (10, 10)], [10, 13, 20]),  # of the same length
        ([(8, 20), (5, 20), (20, 20)], [8, 5, 20]),  # back to a checkpoint
        ([(10, 10), (8, 20), (5, 20)], [10, 18, 15]),  # in the second fit
        ([(10, 10), (10, 10)], [10, 10]),  # the last step, and then its score
    ],
)
def test_training_steps_are_counted_over_all_fits(reports, done):
    odometer = Odometer()
    assert [odometer.advance(report(step=step, steps=steps)) for step, steps in reports] == done


# --- object stores ---


def test_an_object_store_has_everything_in_the_end(store):
    location, disk = store
    assert record(location, report(step=1)) == []
    assert record(location, report(step=2)) == []
    assert [event.get("step") for event in read_events(location)] == [None, 1, None, 2]
    assert curves(disk / "tensorboard" / "teacher")["loss"] == [(1, 1.0), (2, 0.5)]


def test_an_object_store_is_kept_up_to_date(store, monkeypatch):
    location, _ = store
    monkeypatch.setattr(recorder, "UPLOAD_EVERY", 0.01)
    with recording(location, pytest.fail) as into:
        into.write(report(step=7))
        for _ in range(1000):
            if any(event.get("step") == 7 for event in read_events(location)):
                return
            recorder.time.sleep(0.01)
    pytest.fail("nothing was uploaded while the run was at work")


def test_an_object_store_that_fails_is_warned_of_once_and_tried_again(store, monkeypatch):
    location, disk = store
    monkeypatch.setattr(recorder, "UPLOAD_EVERY", 0.01)
    warnings = []
    with recording(location, warnings.append) as into:
        disk.touch()  # no directory can be made here
        into.write(report(step=1))
        while not warnings:
            recorder.time.sleep(0.01)
        recorder.time.sleep(0.1)
        disk.unlink()
    assert len(warnings) == 1
    assert "store://bucket/run" in warnings[0]
    assert [event.get("step") for event in read_events(location)] == [None, 1]
