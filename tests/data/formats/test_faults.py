"""Files with faults that people reported, in every format that can have them."""

import gzip
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.data.formats import (
    CSV,
    JSONL,
    PARQUET,
    TSV,
    base,
    delimited,
    find_columns,
    format_of,
)
from bebert_ray.data.formats.safe import check_names, csv_safe
from bebert_ray.data.tables import read_table, to_split
from bebert_ray.errors import UserError
from bebert_ray.storage import Location

SHORT = 300  # most characters of a message, apart from the path


def scored(path, limit=2, columns=("text",)):
    """Values and bad rows by number, read span by span; and the rows that the spans count."""
    location, kind = Location.of(path), format_of(path.name)
    values, bad, count = {}, {}, 0
    for span in kind.cut(location, limit):
        rows = kind.read(location, span, columns, ())
        values |= dict(zip(rows.numbers, rows.values[0], strict=True))
        bad |= dict(rows.bad)
        count += span.rows
    return values, bad, count


def error(path, columns=("text", "label")):
    with pytest.raises(UserError) as caught:
        to_split(read_table(path, columns), columns[:1], columns[1], ["0", "1"])
    message = str(caught.value)
    assert str(path) in message
    assert len(message) - len(str(path)) <= SHORT
    return message.replace(str(path), "FILE")


def test_a_long_quoted_field_is_one_row(tmp_path):
    path = tmp_path / "in.csv"
    long = "a line of a long text\n" * 8000
    assert len(long) > 131_072
    path.write_text(f'id,text,label\n1,short,0\n2,"{long}",1\n3,last,0\n')
    location = Location.of(path)
    ids = [
        row[0]
        for span in CSV.cut(location, 1)
        for row in CSV.read(location, span, ("text",), ()).data[1:]
    ]
    assert ids == ["1", "2", "3"]
    values, bad, count = scored(path)
    assert (list(values.values()), bad, count) == (["short", long, "last"], {}, 3)
    assert read_table(path, ["text"]).columns["text"] == ["short", long, "last"]


def test_an_unclosed_quote_is_one_error_in_training(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('text,label\nfine,1\n"open,1\n' + "more,0\n" * 50_000)
    assert error(path) == "FILE, line 3: not valid CSV (unexpected end of data)"


def test_an_unclosed_quote_costs_one_row_and_a_bounded_time(tmp_path):
    path = tmp_path / "in.csv"
    # Each line opens a quote in a new row, and closes one and opens another in an unclosed one.
    path.write_text('text\n"open\n' + "fine\n" * 20_000 + 'a","\n' * 20_000)
    read = []

    class Lines:
        def __iter__(self):
            for line in path.read_bytes().splitlines(keepends=True):
                read.append(line)
                yield line

    start = time.process_time()
    records = list(delimited.csv_records(Lines()))
    assert time.process_time() - start < 3
    assert len(records) == 1 + 1 + 40_000
    assert sum(bool(record.problem) for record in records) <= 20_001
    assert len(read) == 40_002, "a line is read once"
    assert [record.value for record in records[2:4]] == [["fine"]] * 2


def test_spans_agree_with_the_whole_file_behind_an_unclosed_quote(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,"open\n2,"",x\n3,"two\nlines"\n4,"""\n5,fine\n')
    [all_at_once, *others] = [scored(path, limit) for limit in (100, 1, 2, 3)]
    assert all(other[2] == all_at_once[2] for other in others)
    for values, bad, count in (all_at_once, *others):
        assert len(values) + len(bad) == count
        assert values[7] == "fine"
        assert 2 in bad


def test_a_row_may_not_be_endless(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_BYTES", 1000)
    path = tmp_path / "in.csv"
    path.write_text('text,label\n"open,1\n' + "more,0\n" * 1000)
    assert error(path).startswith("FILE, line 2: not valid CSV (a row of more than 1,000 bytes")
    assert len(scored(path, 10_000)[0]) == 1000


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.jsonl", "in.parquet"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_what_is_not_utf8_is_named(tmp_path, name, column):
    path, good, bad = tmp_path / name, {"text": b"good", "label": b"1"}, b"caf\xe9"
    rows = [good, good | {column: bad}]
    match path.suffix:
        case ".csv" | ".tsv":
            by = b"," if path.suffix == ".csv" else b"\t"
            lines = [by.join(row.values()) + b"\n" for row in rows]
            path.write_bytes(by.join([b"text", b"label"]) + b"\n" + b"".join(lines))
            place = "line 3"
        case ".jsonl":
            lines = [json.dumps({k: v.decode("latin-1") for k, v in row.items()}) for row in rows]
            path.write_text("\n".join(lines).replace("\\u00e9", "\\ud83d"))
            place = "line 2"
        case ".parquet":
            columns = {k: pa.array([row[k] for row in rows]).view(pa.string()) for k in good}
            pq.write_table(pa.table(columns), path)
            place = "row 2"
    found = error(path)
    assert found.startswith(f"FILE, {place}: column '{column}' holds what is not UTF-8 text")


def test_names_that_are_not_utf8_are_harmless(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"\\ud83d": 1, "text": "good"}\n')
    with pytest.raises(UserError) as caught:
        find_columns(JSONL.columns(Location.of(path), ()), ["label"], "FILE")
    assert "\\ud83d, text" in str(caught.value).encode().decode()
    with pytest.raises(UserError, match=r"'\\ud83d', is not UTF-8"):
        check_names(["a", "\ud83d"], "model")


@pytest.mark.parametrize("kind", [CSV, TSV])
def test_a_mark_before_a_quoted_header(tmp_path, kind):
    by, suffix = (",", "csv") if kind is CSV else ("\t", "tsv")
    quote = '"' if kind is CSV else ""
    path = tmp_path / f"in.{suffix}"
    lines = [by.join(f"{quote}{name}{quote}" for name in row) for row in (("id", "text"), "1a")]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert kind.columns(Location.of(path), ("text",)) == ["id", "text"]
    assert scored(path)[0] == {2: "a"}
    assert read_table(path, ["id", "text"]).columns == {"id": ["1"], "text": ["a"]}


def test_utf16_is_named(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("text,label\na,1\n", encoding="utf-16")
    assert error(path) == "FILE: is UTF-16 text; save the file as UTF-8"


def doubled(path):
    """A file with two columns named `twice`, and `text` and `label` once."""
    match path.suffix:
        case ".csv":
            path.write_text("twice,text,twice,label\nx,good,y,1\n")
        case ".tsv":
            path.write_text("twice\ttext\ttwice\tlabel\nx\tgood\ty\t1\n")
        case ".jsonl":
            path.write_text('{"twice": 1, "text": "good", "twice": 2, "label": "1"}\n')
        case ".parquet":
            arrays = [pa.array([value]) for value in ("x", "good", "y", "1")]
            pq.write_table(pa.Table.from_arrays(arrays, ["twice", "text", "twice", "label"]), path)
    return path


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.jsonl", "in.parquet"])
def test_double_names_matter_if_they_are_wanted(tmp_path, name):
    path = doubled(tmp_path / name)
    assert read_table(path, ["text", "label"]).columns == {"text": ["good"], "label": ["1"]}
    assert list(scored(path)[0].values()) == ["good"]
    assert "'twice'" in error(path, ("twice", "label"))
    location, kind = Location.of(path), format_of(name)
    [span] = kind.cut(location, 9)
    data = kind.read(location, span, ("text",), ()).data
    assert kind.write(data, [0], {"new": pa.array(["z"])})


def test_a_key_of_an_inner_object_is_not_double(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"more": {"text": "inner"}, "text": "outer"}\n')
    assert read_table(path, ["text"]).columns == {"text": ["outer"]}


def test_an_array_is_named_and_short(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"text": "good " * 20, "label": 1}] * 3000
    for text in (json.dumps(rows), json.dumps(rows, indent=2)):
        path.write_text(text)
        assert error(path) == "FILE: is a JSON array; write one object a line"


def test_thousands_of_columns_are_abbreviated(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text(",".join(f"column_{i}" for i in range(5000)) + "\n")
    assert "more)" in error(path)
    (tmp_path / "in.jsonl").write_text(json.dumps({f"column_{i}": 1 for i in range(5000)}))
    assert "more)" in error(tmp_path / "in.jsonl")


@pytest.mark.parametrize(
    "value", ["x" * 10**6, ["x"] * 10**5, {"x": "y" * 10**5}, 10**4000], ids="abcd"
)
def test_long_values_are_abbreviated(tmp_path, value):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"text": "a", "label": value}))
    error(path)
    path.write_text(json.dumps({"text": "a" if isinstance(value, str) else value, "label": "x"}))
    error(path)


def test_packed_text_is_read(tmp_path):
    for name, text in (
        ("in.csv.gz", "text,label\ngood,1\n"),
        ("in.TSV.GZ", "text\tlabel\ngood\t1\n"),
        ("in.jsonl.gz", '{"text": "good", "label": "1"}\n'),
        ("in.json.gz", '[{"text": "good", "label": "1"}]'),
    ):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        table = read_table(tmp_path / name, ["text", "label"])
        assert table.columns == {"text": ["good"], "label": ["1"]}
    (tmp_path / "bad.csv.gz").write_bytes(b"text,label\n")
    assert "cannot be read" in error(tmp_path / "bad.csv.gz")


def test_json_may_be_an_array_or_lines(tmp_path):
    path, rows = tmp_path / "in.json", [{"text": "a", "label": "1"}, {"text": "b", "label": 7}]
    for text in (json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        path.write_text(text)
        assert read_table(path, ["text"]).columns == {"text": ["a", "b"]}
    path.write_text(json.dumps(rows))
    assert error(path) == "FILE, item 2: label '7' is not one of the task's: 0, 1"
    path.write_text('{"text": {\n"0": "a"}}')
    assert "not valid JSON" in error(path)


def test_a_column_of_nulls_has_rows_without_text(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": pa.nulls(2), "n": [1, 2]}), path)
    location = Location.of(path)
    assert PARQUET.columns(location, ("text",)) == ["text", "n"]
    assert scored(path)[0] == {1: None, 2: None}


def test_blank_lines_of_tsv_are_rows_unless_they_end_it(tmp_path):
    path = tmp_path / "in.tsv"
    path.write_text("text\na\n\nb\n\n\n")
    assert scored(path, 1) == ({2: "a", 3: "", 4: "b"}, {}, 3)


def test_names_of_classes_cannot_break_a_file():
    added = {"label": pa.array(["=cmd|x", "a\tb\nc"]), "probability_=1+1": pa.array([0.5, -0.5])}
    text = CSV.write([["id"], ["1"], ["2"]], [0, 1], added).decode()
    assert text == 'id,label,probability_=1+1\n1,\'=cmd|x,0.5\n2,"a\tb\nc",-0.5\n'
    text = TSV.write([["id"], ["1"], ["2"]], [0, 1], added).decode()
    assert text == "id\tlabel\tprobability_=1+1\n1\t=cmd|x\t0.5\n2\ta\\tb\\nc\t-0.5\n"
    assert [csv_safe(name) for name in ("+1", "@x", "-", "\tx")] == ["+1", "'@x", "'-", "'\tx"]
