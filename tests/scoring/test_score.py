"""A part, from its input file to its output file and its list of bad rows."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.errors import RunError, UserError
from bebert_ray.scoring.classifier import Classifier, read_card
from bebert_ray.scoring.parts import Part, find_sources, open_output
from bebert_ray.scoring.score import Job, score_part
from bebert_ray.storage import Location, names


@pytest.fixture
def score(sentiment, tmp_path):
    """Scores a file in one part; returns how many rows are bad."""
    model, output = Location.of(sentiment), Location.of(tmp_path / "out")

    def score(path, text_columns=("text",)):
        job = Job(model, read_card(model), output, text_columns, "", 2)
        [part] = open_output(output, {}, find_sources([str(path)], output), 100)
        return score_part(job, Classifier(model, 2), part)

    return score


def test_columns_are_kept_and_scores_added(score, tmp_path):
    rows = pa.table({"id": [3, 1, 2], "text": ["good " * 9, "bad", "the film"]})
    pq.write_table(rows, tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet") == 0
    written = pq.read_table(tmp_path / "out" / "part-000000.parquet")
    assert written.select(["id", "text"]).equals(rows)
    assert written.column_names[2:] == ["label", "probability_negative", "probability_positive"]
    for row in written.to_pylist():
        names = ["negative", "positive"]
        assert row["label"] == max(names, key=lambda name: row[f"probability_{name}"])
        assert sum(row[f"probability_{name}"] for name in names) == pytest.approx(1, abs=1e-6)
    assert not (tmp_path / "out" / "_bad_rows").exists()


def test_bad_rows_are_listed_and_left_out(score, tmp_path):
    rows = ['{"text": "good"}', '{"text": null}', "nonsense", '{"text": 5}', '{"text": "\\ud800"}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    assert score(tmp_path / "in.jsonl") == 4
    [line] = (tmp_path / "out" / "part-000000.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "good"
    text = (tmp_path / "out" / "_bad_rows" / "part-000000.jsonl").read_text()
    bad = [json.loads(line) for line in text.splitlines()]
    assert {entry["file"] for entry in bad} == {str(tmp_path / "in.jsonl")}
    assert {entry["row"]: entry["reason"] for entry in bad} == {
        2: "no text in column 'text'",
        3: "not valid JSON (Expecting value: line 1 column 1 (char 0))",
        4: "column 'text' holds 5, which is not text",
        5: "column 'text' holds what is not UTF-8 text",
    }


def test_both_texts_of_a_pair_are_needed(score, tmp_path):
    (tmp_path / "in.csv").write_text("a,b\ngood,bad\ngood,\n,bad\n")
    assert score(tmp_path / "in.csv", ("a", "b")) == 2
    assert len((tmp_path / "out" / "part-000000.csv").read_text().splitlines()) == 2


def test_a_part_without_good_rows_is_done_too(score, tmp_path):
    pq.write_table(pa.table({"text": pa.array([None, None], pa.string())}), tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet") == 2
    assert pq.read_table(tmp_path / "out" / "part-000000.parquet").num_rows == 0
    assert names(tmp_path / "out") == {"_predict.json", "_bad_rows", "part-000000.parquet"}


def test_the_list_is_there_before_the_output(score, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text,n\ngood,1\n,2\n")
    written = []
    monkeypatch.setattr(
        "bebert_ray.scoring.score.write_atomic", lambda place, _: written.append(place.name)
    )
    score(tmp_path / "in.csv")
    assert written == ["part-000000.jsonl", "part-000000.csv"]


def test_a_part_goes_through_json():
    from dataclasses import asdict

    from bebert_ray.data.formats import Span

    part = Part("part-000001.csv", "/in.csv", Span(10, 20, 3, 7))
    assert Part.parse(json.loads(json.dumps(asdict(part)))) == part
    assert part.bad_rows == "_bad_rows/part-000001.jsonl"


def test_rows_without_a_finite_score_are_bad(score, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text,n\ngood,1\nbad,2\nfilm,3\n")
    scores = np.array([[0.5, 0.5], [np.nan, np.nan], [0.1, 0.9]])
    monkeypatch.setattr(Classifier, "score", lambda *_: scores)
    assert score(tmp_path / "in.csv") == 1
    written = (tmp_path / "out" / "part-000000.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in written[1:]] == [["good", "1"], ["film", "3"]]
    [line] = (tmp_path / "out" / "_bad_rows" / "part-000000.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 3
    assert json.loads(line)["reason"] == "the model gives NaN or infinity"


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_columns_of_a_partition_are_kept(score, tmp_path, name):
    folder = tmp_path / "data" / "year=2020" / "city=S%C3%A3o" / "n=0"
    folder.mkdir(parents=True)
    if name == "in.csv":
        (folder / name).write_text("text,n\ngood,1\n")
    elif name == "in.jsonl":
        (folder / name).write_text('{"text": "good", "n": 1}\n')
    else:
        pq.write_table(pa.table({"text": ["good"], "n": [1]}), folder / name)
    assert score(tmp_path / "data") == 0
    output = tmp_path / "out" / f"part-000000{folder.joinpath(name).suffix}"
    if name == "in.csv":
        header, line = output.read_text().splitlines()
        assert header.startswith("text,n,year,city,label,")
        assert line.startswith("good,1,2020,São,")
    else:
        row = (
            json.loads(output.read_text())
            if name == "in.jsonl"
            else pq.ParquetFile(output).read().to_pylist()[0]
        )
        assert list(row)[:5] == ["text", "n", "year", "city", "label"]
        assert (row["year"], row["city"], row["n"]) == ("2020", "São", 1)


def test_labels_that_would_break_tsv_are_escaped(classifier, tmp_path):
    model, output = Location.of(classifier("a\tb", "c\nd")), Location.of(tmp_path / "out")
    (tmp_path / "in.tsv").write_text("text\ngood\nbad\n")
    job = Job(model, read_card(model), output, ("text",), "", 2)
    [part] = open_output(output, {}, find_sources([str(tmp_path / "in.tsv")], output), 100)
    assert score_part(job, Classifier(model, 2), part) == 0
    lines = (tmp_path / "out" / "part-000000.tsv").read_text().removesuffix("\n").split("\n")
    assert lines[0] == "text\tlabel\tprobability_a\\tb\tprobability_c\\nd"
    assert [line.count("\t") for line in lines] == [3, 3, 3]


def test_an_output_that_cannot_be_written_is_no_bad_input(score, tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("text\ngood\n")

    def full(place, _):
        raise UserError(f"cannot write {place}: No space left on device")

    monkeypatch.setattr("bebert_ray.scoring.score.write_atomic", full)
    with pytest.raises(RunError, match=r"part-000000\.csv failed: cannot write .*No space left"):
        score(tmp_path / "in.csv")
