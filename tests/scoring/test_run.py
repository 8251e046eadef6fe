"""Scoring as a whole, on a Ray of its own."""

import io
import json
import os
import shutil
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from rich.console import Console
from safetensors.torch import load_file, save_file

from bebert_ray import api
from bebert_ray.errors import RunError, UserError
from bebert_ray.scoring.run import Request, predict, print_figures
from bebert_ray.storage import Location, disk, lock, names, write_atomic
from bebert_ray.storage.records import sealed


@pytest.fixture
def request_(sentiment, tmp_path):
    """A request for a Parquet file of 40 rows, two of them bad, in parts of 8."""
    texts = [("good " * (i % 7) + "film") if i % 20 else None for i in range(40)]
    pq.write_table(pa.table({"id": range(40), "text": texts}), tmp_path / "in.parquet")
    return Request(
        str(sentiment), [str(tmp_path / "in.parquet")], str(tmp_path / "out"), rows_per_file=8
    )


def outputs(directory):
    return sorted(directory.glob("part-*.parquet"))


def bad_rows(directory):
    paths = sorted((directory / "_bad_rows").iterdir())
    return [json.loads(line)["row"] for path in paths for line in path.open()]


def run(request, **changed):
    """The outcome, and the progress that was shown."""
    progress = io.StringIO()
    outcome = predict(replace(request, **changed), Console(file=progress, width=200))
    return outcome, progress.getvalue()


@pytest.mark.cluster
def test_every_row_comes_out_once(request_, tmp_path):
    outcome, progress = run(request_, workers=2)
    figures = outcome.figures()
    assert figures.pop("seconds") > 0
    assert figures.pop("rows_per_second") > 0
    assert figures == {
        "output": str(tmp_path / "out"),
        "rows": 40,
        "scored": 38,
        "bad": 2,
        "files": 5,
        "files_before": 0,
    }
    assert "40 of 40 rows" in progress
    rows = pq.read_table(outputs(tmp_path / "out"))
    assert rows["id"].to_pylist() == [i for i in range(40) if i % 20]
    assert bad_rows(tmp_path / "out") == [1, 21]


@pytest.mark.cluster
def test_a_model_that_cannot_be_loaded_is_told_in_one_message(
    request_, sentiment, tmp_path, monkeypatch
):
    before, alive, shutdown = set(threading.enumerate()), set(), ray.shutdown

    def look_and_shut_down():
        if ray.is_initialized():
            alive.update(threading.enumerate())
        shutdown()

    monkeypatch.setattr("ray.shutdown", look_and_shut_down)
    model = shutil.copytree(sentiment, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["classifier.bias"]  # which only a worker looks at
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model: has no classifier\.bias"):
        run(request_, model=str(model))
    assert names(Location.of(tmp_path / "out")) == {".lock"}, "another model may be given"
    # Any but Ray's own might turn to a Ray that is gone, which then ends this process.
    left = {thread.name for thread in alive - before}
    assert left <= {"PythonGCThread", "ray_listen_error_messages"}  # none if Ray never started


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        (False, {"vocab_size": 50}, "and the weights 50: they do not belong together"),
        (True, {"type_vocab_size": 1}, "the texts are pairs, and type_vocab_size is 1"),
        (False, None, "the tokenizer knows no word"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_before_anything_starts(
    request_, sentiment, tmp_path, monkeypatch, pairs, settings, message
):
    monkeypatch.setattr("bebert_ray.scoring.run.connected", None)  # or it fails otherwise
    model = shutil.copytree(sentiment, tmp_path / "model")
    if settings is None:
        (model / "tokenizer.json").unlink()
    else:
        config = json.loads((model / "config.json").read_text()) | settings
        (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        run(request_, model=str(model), text_columns=["text", "id"] if pairs else None)
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_redone(request_, without_ray, tmp_path):
    first, _ = run(request_)
    parts = [part.name for part in first.parts]
    assert without_ray == parts
    files = outputs(tmp_path / "out")
    content = [path.read_bytes() for path in files]

    # As if the process was killed before these two were written.
    without_ray.clear()
    files[1].unlink()
    files[4].unlink()
    again, _ = run(request_)
    assert without_ray == [parts[1], parts[4]]
    assert [path.read_bytes() for path in files] == content
    assert (again.figures()["rows"], again.figures()["files_before"]) == (40, 3)

    without_ray.clear()
    done, _ = run(request_)
    assert not without_ray
    assert (done.bad, done.figures()["rows_per_second"]) == (2, None)


def test_drafts_of_a_killed_process_are_swept(request_, without_ray, tmp_path):
    run(request_)
    draft = tmp_path / "out" / disk.draft_name("part-000001.parquet")
    draft.write_bytes(b"half")
    run(request_)
    assert not draft.exists()


@pytest.fixture
def disturbed(without_ray, monkeypatch):
    """Has something happen once a part is scored."""
    from bebert_ray.scoring import run as module

    scored = module.scored

    def disturb(number, what):
        def scored_and_disturbed(job, *arguments):
            for count, outcome in enumerate(scored(job, *arguments)):
                if count == number:
                    what()
                yield outcome

        monkeypatch.setattr(module, "scored", scored_and_disturbed)

    return disturb


@pytest.mark.parametrize("number", [0, 4])
def test_an_output_that_vanishes_is_an_error_and_is_not_made_again(
    request_, disturbed, tmp_path, number
):
    out, away = tmp_path / "out", tmp_path / "away"
    disturbed(number, lambda: out.rename(away))
    with pytest.raises((UserError, RunError), match=r"is gone|were moved or deleted"):
        run(request_)
    assert not out.exists()
    assert len(outputs(away)) == number + 1
    away.rename(out)
    disturbed(-1, lambda: None)
    assert run(request_)[0].figures()["scored"] == 38


@pytest.mark.parametrize("lost", ["part-000001.parquet", "_bad_rows/part-000000.jsonl"])
def test_files_that_are_lost_meanwhile_are_no_success(request_, disturbed, tmp_path, lost):
    disturbed(4, lambda: (tmp_path / "out" / lost).unlink())
    with pytest.raises(RunError, match=rf"1 of the files that were written .*{lost}"):
        run(request_)


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("number", [1, 4])
def test_an_input_that_changes_meanwhile_is_refused(request_, disturbed, tmp_path, number, hides):
    place = tmp_path / "in.parquet"

    def rewrite():
        status, content = place.stat(), place.read_bytes()
        changed = content.replace(b"film", b"gilm")
        assert len(changed) == len(content) and changed != content
        place.write_bytes(changed)
        if hides:
            os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))

    disturbed(number, rewrite)
    with pytest.raises(UserError, match="changed since the command began"):
        run(request_)


def test_a_link_in_place_of_the_lists_is_not_written_through(request_, without_ray, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").touch()
    with lock(tmp_path / "out"):
        pass
    (tmp_path / "out" / "_predict.json").symlink_to(tmp_path / "nowhere.json")
    (tmp_path / "out" / "_bad_rows").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="symbolic link"):
        run(request_)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"name": "part-000000.parquet"', '"name": "../../part-0.parquet"'),
        ('"name": "part-000000.parquet"', '"name": "/part-000000.parquet"'),
        ('"rows": 8', '"rows": 7'),
        ('"start": 8', '"start": 9'),
    ],
)
def test_a_record_that_was_altered_is_named(request_, without_ray, tmp_path, old, new):
    run(request_)
    place = tmp_path / "out" / "_predict.json"
    assert old in place.read_text()
    text = place.read_text().replace(old, new, 1)
    place.write_text(text)
    with pytest.raises(UserError, match=r"_predict\.json is not as it was written"):
        run(request_)
    entries = json.loads(text)
    del entries["checksum"]
    place.write_text(json.dumps(sealed(entries, "bebert-prediction", 1)))
    if "name" in old:
        with pytest.raises(UserError, match=r"_predict\.json is not as it was written"):
            run(request_)
    place.write_text(json.dumps(entries | {"version": 2}))
    with pytest.raises(UserError, match="made by a newer version"):
        run(request_)


def test_another_command_does_not_write_there(request_, without_ray):
    run(request_)
    for changed in ({"prefix": "my_"}, {"rows_per_file": 9}):
        with pytest.raises(UserError, match="holds the output of another command"):
            run(request_, **changed)


def test_two_commands_at_once_do_not_write_there(request_, without_ray, tmp_path):
    with lock(tmp_path / "out"), pytest.raises(UserError, match="is in use by process"):
        run(request_)


def test_the_text_columns_are_those_of_the_model_or_of_the_request(
    request_, classifier, without_ray, tmp_path
):
    with pytest.raises(UserError, match="--text-columns: name the column"):
        run(request_, model=str(classifier("a", "b")))
    outcome, _ = run(request_, model=str(classifier("a", "b")), text_columns=["text"])
    assert outcome.bad == 2
    with pytest.raises(UserError, match="no column 'review'"):
        run(request_, text_columns=["review"], output=str(tmp_path / "other"))


def test_an_object_store_does_as_well(request_, without_ray, bucket, tmp_path):
    write_atomic(bucket / "in.parquet", (tmp_path / "in.parquet").read_bytes())
    outcome, _ = run(request_, input=[str(bucket / "in.parquet")], output=str(bucket / "out"))
    assert outcome.figures()["scored"] == 38
    assert len(names(bucket / "out")) == 5 + len({"_predict.json", "_bad_rows"})
    assert (
        run(request_, input=[str(bucket / "in.parquet")], output=str(bucket / "out"))[0].left == []
    )


def test_the_figures_are_shown(request_, without_ray):
    out = io.StringIO()
    print_figures(run(request_)[0].figures(), Console(file=out))
    assert "rows per second" in out.getvalue()


def test_an_empty_file_is_listed_and_the_others_are_scored(request_, without_ray, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "empty.csv").touch()
    (tmp_path / "data" / "full.csv").write_text("text\ngood\n")
    pq.write_table(pa.table({"text": pa.nulls(1)}), tmp_path / "data" / "nulls.parquet")
    outcome, progress = run(request_, input=[str(tmp_path / "data")])
    assert (outcome.figures()["scored"], outcome.bad) == (1, 1)
    assert "empty.csv: is empty, and left out" in progress
    with pytest.raises(UserError, match=r"empty\.csv: is empty"):
        run(request_, input=[str(tmp_path / "data" / "empty.csv")], output=str(tmp_path / "o"))


def test_bad_rows_alone_are_a_failure(request_, without_ray, tmp_path):
    (tmp_path / "bad.csv").write_text("text,id\n,1\n,2\n")
    for _ in range(2):  # also where nothing is left to do
        with pytest.raises(RunError, match=r"all 2 rows are bad.*_bad_rows.*no text in column"):
            run(request_, input=[str(tmp_path / "bad.csv")])


@pytest.mark.usefixtures("without_ray")
def test_a_table_in_memory_is_named_and_no_file(sentiment):
    columns = {"text_columns": ["text"], "quiet": True}
    with pytest.raises(UserError, match=r"^input: has a column 'label' already; leave it out"):
        api.predict(sentiment, pa.table({"text": ["a"], "label": [1]}), **columns)
    with pytest.raises(UserError, match=r"^input: 2 of 2 rows have no text to score"):
        api.predict(sentiment, pa.table({"text": pa.nulls(2, pa.string())}), **columns)


@pytest.mark.usefixtures("without_ray")
def test_a_cascade_takes_a_model_that_has_one(request_):
    with pytest.raises(UserError, match=r"--cascade: .* has none"):
        run(request_, cascade=True)
