import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.data.tables import read_table, similar_labels, spelled_labels, table_of, to_split
from bebert_ray.errors import UserError

RECORDS = [
    {"text": 'He said "no" , twice', "label": "neg"},
    {"text": "naïve café\u2028with a line separator", "label": "pos"},
    {"text": "", "label": "neg"},
]
WANTED = ("text", "label")


def write(path: Path, records: list[dict]) -> Path:
    """Write records in the format that the suffix names."""
    match path.suffix:
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(records[0]))
                writer.writeheader()
                writer.writerows(records)
        case ".tsv":
            rows = [list(records[0]), *(map(str, record.values()) for record in records)]
            path.write_text("\n".join(map("\t".join, rows)) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same(tmp_path, suffix):
    table = read_table(write(tmp_path / f"data{suffix}", RECORDS), WANTED)
    split = to_split(table, ["text"], "label", ["neg", "pos"])
    assert split.texts == ([record["text"] for record in RECORDS],)
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_missing_column_names_those_there(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", RECORDS)
    with pytest.raises(UserError, match=rf"data\{suffix}.*no column 'review'.*: text, label"):
        read_table(path, ("review", "label"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.tsv", "text\tlabel\nfine\t1\ntoo\tmany\t1\n", "line 3: expected 2 columns, found 3"),
        ("a.tsv", "text\tlabel\nfine\t1\n\nfine\t1\n", "line 3: expected 2 columns, found 1"),
        ("a.csv", "text,label\n'fine',1\nalone\n", "line 3: expected 2 columns, found 1"),
        ("a.csv", 'text,label\n"two\nlines",1\nalone\n', "line 4: expected 2 columns, found 1"),
        ("a.csv", 'text,label\nfine,1\n"open,1\n', "line 3: not valid CSV"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": \n', "line 2: not valid JSON"),
        ("a.csv", "text,label\rfine,1\rbad,0\r", "end lines with LF or CRLF"),
        ("a.jsonl", f'{{"text": "x", "label": {"1" * 5000}}}\n', "a number has too many digits"),
        ("a.jsonl", '{"text": "x", "label": 1}\n[1]\n', "line 2: not a JSON object"),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n{"text": "x"}\n', "line 3: there is no column"),
        ("a.tsv", "", "is empty"),
        ("a.parquet", "text\tlabel\n", "cannot be read as Parquet"),
        ("a.xlsx", "text", r"must end in \.csv, \.tsv, \.jsonl, \.parquet"),
    ],
)
def test_malformed_files(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=complaint) as caught:
        read_table(path, WANTED)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        with pytest.raises(UserError, match="absent"):
            read_table(tmp_path / f"absent{suffix}", WANTED)


def test_bad_encoding_names_the_line(tmp_path):
    path = tmp_path / "latin.tsv"
    path.write_bytes("text\tlabel\nfine\t1\ncafé\t1\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 3: column 'text' holds what is not UTF-8 text"):
        to_split(read_table(path, WANTED), ["text"], "label", ["1"])


def test_byte_order_mark_and_carriage_returns(tmp_path):
    path = tmp_path / "windows.tsv"
    path.write_bytes(b"\xef\xbb\xbftext\tlabel\r\nfine\t1\r\n")
    assert read_table(path, WANTED).columns == {"text": ["fine"], "label": ["1"]}


def test_skipped_rows_keep_the_line_numbers_of_the_others(tmp_path):
    path = tmp_path / "broken.tsv"
    path.write_text("text\tlabel\na\t1\nhalf\nb\tmaybe\n")
    table = read_table(path, WANTED, skip_bad=True)
    assert list(table.lines) == [2, 4]
    with pytest.raises(UserError, match="line 4: label 'maybe'"):
        to_split(table, ["text"], "label", ["0", "1"])


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r")), min_size=1, max_size=20
    )
)
def test_tsv_keeps_any_text_as_it_is(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    path.write_text(
        "text\tlabel\n" + "".join(f"{text}\t1\n" for text in texts), encoding="utf-8", newline=""
    )
    assert read_table(path, WANTED).columns["text"] == texts


@pytest.mark.parametrize(
    ("record", "labels", "complaint"),
    [
        ({"text": "x", "label": "maybe"}, ["no", "yes"], "line 2: label 'maybe' is not one of"),
        ({"text": "x", "label": None}, ["no", "yes"], "line 2: no label in column 'label'"),
        ({"text": "x", "label": ""}, ["no", "yes"], "line 2: no label in column 'label'"),
        ({"text": 7, "label": "yes"}, ["no", "yes"], "line 2: column 'text' holds 7"),
        ({"text": None, "label": "yes"}, ["no", "yes"], "line 2: column 'text' holds None"),
        ({"text": "x", "label": "high"}, None, "line 2: score 'high'.*is no number"),
        ({"text": "x", "label": None}, None, "line 2: score None.*is no number"),
        (
            {"text": "x", "label": "nan"},
            None,
            "line 2: score 'nan' must be a finite number from 0 to",
        ),
        (
            {"text": "x", "label": 5.1},
            None,
            "line 2: score 5.1 must be a finite number from 0 to 5",
        ),
    ],
)
def test_bad_values(tmp_path, record, labels, complaint):
    good = {"text": "x", "label": "yes" if labels else 1}
    table = read_table(write(tmp_path / "a.jsonl", [good, record]), WANTED)
    with pytest.raises(UserError, match=complaint):
        to_split(table, ["text"], "label", labels, score_range=(0.0, 5.0))


def test_header_without_rows(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n")
    with pytest.raises(UserError, match="holds no examples"):
        to_split(read_table(path, WANTED), ["text"], "label", ["0", "1"])


def test_labels_of_any_type_are_spelled_as_strings(tmp_path):
    records = [{"text": "x", "label": label} for label in (1, True, "1")]
    table = read_table(write(tmp_path / "a.jsonl", records), WANTED)
    assert spelled_labels(table, "label") == ["1", "True", "1"]


def test_missing_label_of_a_data_frame(tmp_path):
    records = [{"text": "x", "label": 1.0}, {"text": "x", "label": float("nan")}]
    table = read_table(write(tmp_path / "a.parquet", records), WANTED)
    with pytest.raises(UserError, match="row 2: no label"):
        spelled_labels(table, "label")


@pytest.mark.parametrize("label", [["a", "b"], {"a": 1}, []])
def test_labels_that_are_no_single_value(tmp_path, label):
    records = [{"text": "x", "label": ["c"]}, {"text": "x", "label": label}]
    table = read_table(
        write(tmp_path / "a.jsonl", [{"text": "x", "label": "ok"}, *records]), WANTED
    )
    with pytest.raises(UserError, match=r"line 2: label \['c'\] in column 'label' is not a single"):
        spelled_labels(table, "label")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("score", [1e300, -1e39])
def test_scores_out_of_range(tmp_path, suffix, score):
    records = [{"text": "x", "label": 0.5}, {"text": "x", "label": score}]
    table = read_table(write(tmp_path / f"a{suffix}", records), WANTED)
    with pytest.raises(UserError, match=r"(line 3|line 2|row 2): score .* is out of range"):
        to_split(table, ["text"], "label", None)


def test_a_score_of_many_digits(tmp_path):
    table = read_table(write(tmp_path / "a.jsonl", [{"text": "x", "label": 10**400}]), WANTED)
    with pytest.raises(UserError, match="line 1: score a number of more than 300 digits must be"):
        to_split(table, ["text"], "label", None)


def test_tables_in_memory_are_checked_as_files_are():
    double = pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"])
    with pytest.raises(UserError, match="train: 2 columns are named 'text'"):
        table_of("train", double, ["text"])
    bad = pa.table({"text": pa.array([b"\xff"]).view(pa.string()), "label": ["a"]})
    with pytest.raises(UserError, match="train, row 1: column 'text' holds what is not UTF-8"):
        to_split(table_of("train", bad, WANTED), ["text"], "label", ["a"])


def test_similar_labels():
    assert similar_labels(["a", "b", "nan"]) == []
    assert similar_labels(["A", "a", "0.0", "0"]) == [["A", "a"], ["0.0", "0"]]
