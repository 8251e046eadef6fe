"""Where the steps of a run stand, in runs made by hand."""

import pyarrow.fs
import pytest

from bebert_ray.config.recipes import kind_of
from bebert_ray.pipeline.results import read_results, to_json
from bebert_ray.reporting.status import _steps, look
from bebert_ray.storage import Location, lock, remove, write_atomic

from .conftest import HandMade

STAGES = ["teacher", "half", "ternary", "split"]
NAMES = [*STAGES, "member 000", "member 001"]


def rows(run):
    return {row.name: row for row in look(run.location).rows}


def states(run):
    return {name: row.state for name, row in rows(run).items()}


def finish_stages(run, ago=1000):
    for stage in STAGES:
        run.finish(stage, ago)


# --- the run ---


def test_what_run_it_is(made):
    status = look(made("seed=7", "bits=1-1-4").location)
    about = (status.task, status.bits, status.method, status.schedule, status.rounds, status.seed)
    assert about == ("mrpc", "1-1-4", "boosting", "sequential", 1, 7)
    assert status.results is None


def test_a_driver_at_work_is_seen_and_not_disturbed(made):
    run = made()
    assert look(run.location).driver == "not at work"
    with lock(run.location):
        status = look(run.location)
        assert (status.driver, status.holder[:8]) == ("at work", "process ")
        assert look(run.location).driver == "at work"  # the look before has not freed it
    assert look(run.location).driver == "not at work"
    with lock(run.location):
        pass  # nor has a look taken it


def test_a_run_that_has_not_begun_waits(made):
    assert states(made()) == dict.fromkeys(NAMES, "waiting")


def test_the_packed_model_is_the_last_step(made):
    run = made("export.remainder=fp16")
    assert list(states(run)) == [*NAMES, "model"]
    run.open(100)
    run.tell(50, "start", "model", node="here", pid=1)
    assert states(run)["model"] == "stopped"
    run.finish("model", 20, held_out=0.81, dev=0.72)
    row = rows(run)["model"]
    assert (row.state, row.held_out, row.dev, row.work) == ("done", 0.81, 0.72, 0)


@pytest.mark.parametrize(
    "overrides",
    [
        ["ensemble.members=3"],
        ["ensemble.errors=out_of_fold", "ensemble.folds=2"],
        ["ensemble.schedule=pipelined"],
        ["bits=1-1-1", "binary.through=[1-1-2]"],
        ["ensemble.method=bagging", "ensemble.errors=out_of_fold"],
    ],
)
def test_the_steps_are_those_of_a_run(made, overrides):
    from bebert_ray.pipeline.members import member_steps

    config = made(*overrides).config
    members = [name for name in member_steps(config) if " round " not in name]
    stages = [stage.name for stage in kind_of(config).stages]
    assert list(_steps(config)) == [*stages, *members]


# --- a step ---


def test_a_finished_step_tells_its_scores_as_its_record_has_them(made):
    run = made()
    run.open(ago=200)
    run.report(150, "teacher", 10, score=0.5)
    run.report(100, "teacher", 20, score=0.6)
    run.finish("teacher", ago=99, held_out=0.81, dev=0.71)
    row = rows(run)["teacher"]
    assert (row.state, row.held_out, row.dev, row.seconds) == ("done", 0.81, 0.71, 12.5)
    assert (row.epochs, row.step, row.steps, row.loss) == (2, 20, 20, 0.5)
    assert (row.work, row.work_done) == (20, 20)
    assert row.seen == pytest.approx(100, abs=5)


def test_a_step_at_work(made):
    run = made()
    run.open(ago=70)
    run.tell(60, "start", "teacher", node="here", pid=2)
    run.report(30, "teacher", 10, score=0.5)
    run.report(3, "teacher", 15, loss=0.25)
    with lock(run.location):
        row = rows(run)["teacher"]
    assert (row.state, row.epoch, row.epochs, row.step, row.steps) == ("running", 2, 2, 15, 20)
    assert (row.loss, row.held_out, row.dev) == (0.25, 0.5, None)
    assert (row.examples_per_second, row.memory, row.restarts) == (50.0, 2 * 10**9, 0)
    assert row.seconds == pytest.approx(60, abs=5)
    assert row.seen == pytest.approx(3, abs=5)
    assert (row.work, row.work_done) == (20, 15)


def test_a_step_that_has_just_begun_is_at_work(made):
    run = made()
    run.open(ago=2)
    run.tell(1, "start", "teacher", node="here", pid=2)
    with lock(run.location):
        row = rows(run)["teacher"]
    assert (row.state, row.step, row.loss) == ("running", None, None)


def test_without_a_driver_nothing_is_at_work(made):
    run = made()
    run.open(ago=70)
    run.report(60, "teacher", 15)
    row = rows(run)["teacher"]
    assert (row.state, row.epoch, row.step, row.seconds) == ("stopped", 2, 15, None)


def test_what_an_earlier_driver_began_is_stopped_until_it_is_taken_up(made):
    run = made()
    finish_stages(run)
    run.open(ago=900)
    run.report(800, "member 000", 15)
    run.report(800, "member 001", 5)
    run.open(ago=60)
    run.report(50, "member 000", 16)
    with lock(run.location):
        assert [states(run)[name] for name in NAMES[4:]] == ["running", "stopped"]


def test_a_step_that_is_made_anew_is_at_work_in_spite_of_its_record(made):
    run = made()
    run.report(510, "teacher", 20)
    run.finish("teacher", ago=500)
    run.open(ago=100)
    run.report(50, "teacher", 7)
    with lock(run.location):
        row = rows(run)["teacher"]
    assert (row.state, row.dev, row.work_done) == ("running", None, 7)


@pytest.mark.parametrize("skew", [-60, 60])
def test_the_clock_of_the_disk_does_not_matter(made, skew):
    run = made()
    run.open(ago=200)
    run.report(150, "teacher", 20)
    run.finish("teacher", ago=149, skew=skew)
    assert rows(run)["teacher"].state == "done"
    run.report(140, "teacher", 3)  # anew
    assert rows(run)["teacher"].state == "stopped"


def test_a_step_whose_end_was_not_told_is_done_once_a_driver_has_found_it(made):
    """The driver was killed right after the step."""
    run = made()
    run.open(ago=200)
    run.report(150, "teacher", 20)
    run.finish("teacher", ago=149, told=False)
    run.open(ago=100)
    run.report(90, "half", 3)
    with lock(run.location):
        assert rows(run)["teacher"].state == "done"


def test_what_is_told_after_the_end_does_not_begin_a_step_anew(made):
    run = made()
    run.open(ago=1000)
    run.report(498, "member 000", 20)  # the driver hears of it two seconds late
    run.finish("members/000", ago=500)
    run.tell(300, "boost", "member 000", round=None, error=0.25, alpha=0.55)
    with lock(run.location):
        row = rows(run)["member 000"]
    assert (row.state, row.error, row.alpha) == ("done", 0.25, 0.55)


def test_restarts_are_counted_over_rounds(made):
    run = made("ensemble.schedule=pipelined")
    run.open(ago=100)
    for round in range(2):
        run.tell(90 - round, "start", "member 001", node="here", pid=3)
        run.tell(80 - round, "restart", "member 001", node="", reason="", attempt=1, limit=3)
    run.report(70, "member 001", 12, round=1)
    run.tell(60, "boost", "member 001", round=0, error=0.2, alpha=0.5)
    run.tell(50, "boost", "member 001", round=1, error=0.3, alpha=0.4)
    with lock(run.location):
        status = look(run.location)
    row = status.rows[-1]
    assert (status.schedule, status.rounds) == ("pipelined", 2)
    assert (row.name, row.state, row.round, row.restarts) == ("member 001", "running", 1, 2)
    assert (row.error, row.alpha) == (0.3, 0.4)


@pytest.mark.parametrize(
    "record",
    ["", '{"stage": "teac', "null", "[]", '{"facts": 3}', '{"facts": {"scores": {"a": 1}}}'],
)
def test_a_damaged_record_is_called_so(made, record):
    run = made()
    run.finish("teacher")
    write_atomic(run.location / "teacher" / "artifact.json", record)
    assert rows(run)["teacher"].state == "damaged record"


# --- the whole ---


def test_work_is_counted_over_all_fits(made):
    run = made("ensemble.strategy=C", "member.hidden_epochs=3")
    run.open(ago=100)
    run.finish("teacher")
    run.report(60, "ternary", 10, steps=10)
    run.report(50, "ternary", 5)
    work = {name: (row.work_done, row.work) for name, row in rows(run).items()}
    assert work == {
        "teacher": (20, 20),
        "half": (0, 20),
        "ternary": (15, 30),
        "split": (0, 0),
        "member 000": (0, 50),
        "member 001": (0, 50),
    }


def test_work_ends_with_the_most_steps(made):
    run = made("training.max_steps=15", "ensemble.baselines=[longer]", "ensemble.distill=true")
    run.open(ago=100)
    work = {name: row.work for name, row in rows(run).items()}
    assert (work["teacher"], work["ternary"], work["member 000"]) == (15, 25, 15)
    assert (work["longer"], work["distilled"]) == (30, 15)


def test_without_data_nobody_knows_the_work(tmp_path):
    run = HandMade(tmp_path)
    run.open(ago=20)
    run.report(10, "teacher", 5)
    with lock(run.location):
        status = look(run.location)
    assert {row.work for row in status.rows} == {0}
    assert status.seconds_left is None


def test_the_time_left_is_that_of_members_like_those_before(made):
    run = made()
    finish_stages(run)
    run.open(ago=100)
    run.report(10, "member 000", 10, examples_per_second=20.0)
    with lock(run.location):
        left = look(run.location).seconds_left
    # 10 and 20 training steps of 10 examples each.
    assert left == pytest.approx(30 * 10 / 20)


def test_members_side_by_side_take_half_the_time(made):
    run = made("ensemble.schedule=pipelined", "ensemble.members=4")
    finish_stages(run)
    run.open(ago=100)
    for member in range(2):
        run.report(10, f"member 00{member}", 10, examples_per_second=20.0, round=0)
    with lock(run.location):
        left = look(run.location).seconds_left
    assert left == pytest.approx((10 + 10 + 20 + 20) * 10 / 20 / 2)


def test_no_time_is_guessed_for_what_was_never_seen(made):
    run = made()
    run.open(ago=100)
    run.report(10, "teacher", 10)
    with lock(run.location):
        assert look(run.location).seconds_left is None


def test_no_time_is_left_where_nobody_works(made):
    run = made()
    finish_stages(run)
    run.open(ago=100)
    run.report(10, "member 000", 10)
    assert look(run.location).seconds_left is None


# --- the end ---


def test_a_finished_run_has_results(made):
    run = made()
    finish_stages(run)
    run.finish("members/000")
    run.finish("members/001")
    results = run.sum_up(NAMES)
    status = look(run.location)
    assert status.results == results
    assert {row.state for row in status.rows} == {"done"}


def test_members_that_boosting_has_ended_before_are_not_needed(made):
    run = made()
    finish_stages(run)
    run.finish("members/000")
    run.sum_up(NAMES[:-1], note="member 000 makes no errors to learn from: boosting ends with it")
    assert states(run)["member 001"] == "not needed"
    assert rows(run)["member 001"].work == 0


def test_results_of_before_the_run_got_more_members_are_not_its_own(made, tmp_path):
    run = made()
    run.sum_up(NAMES)
    more = HandMade(tmp_path, "ensemble.members=3")
    assert look(more.location).results is None
    assert states(more)["member 002"] == "waiting"


def test_results_of_a_version_that_knew_fewer_keys_are_of_the_run(made):
    run = made()
    run.sum_up(NAMES)
    content = read_results(run.location)
    del content["config"]["ensemble"]["distill"]
    write_atomic(run.location / "results.json", to_json(content))
    assert look(run.location).results == content


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_damaged_results_are_none(made, content):
    run = made()
    write_atomic(run.location / "results.json", content)
    assert look(run.location).results is None


# --- object stores ---


def test_in_an_object_store_nobody_knows_of_a_driver(tmp_path):
    filesystem = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    run = HandMade(Location(filesystem, "run", "store://bucket/run"))
    run.tokenise()
    run.finish("teacher")
    write_atomic(run.location / "half" / "artifact.json", '"being written"')
    run.open(ago=100)
    run.report(60, "half", 15)
    run.finish("ternary")
    remove(run.location / "ternary" / "artifact.json")
    status = look(run.location)
    assert (status.run, status.driver, status.holder) == ("store://bucket/run", "unknown", "")
    assert [row.state for row in status.rows[:3]] == ["done", "begun", "waiting"]
    assert (status.rows[1].work_done, status.seconds_left) == (15, None)
