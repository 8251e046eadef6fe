"""A part, from its input file to its output file and its list of bad rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.predict.classifier import Classifier, read_card
from bebert_ray.predict.parts import Part, find_sources, open_output
from bebert_ray.predict.score import Job, score_part
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
        "bebert_ray.predict.score.write_atomic", lambda place, _: written.append(place.name)
    )
    score(tmp_path / "in.csv")
    assert written == ["part-000000.jsonl", "part-000000.csv"]


def test_a_part_goes_through_json():
    from dataclasses import asdict

    from bebert_ray.data.formats import Span

    part = Part("part-000001.csv", "/in.csv", Span(10, 20, 3, 7))
    assert Part.parse(json.loads(json.dumps(asdict(part)))) == part
    assert part.bad_rows == "_bad_rows/part-000001.jsonl"
