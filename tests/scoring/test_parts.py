"""Which files are read, how they are cut into parts, and whose output a directory is."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.errors import UserError
from bebert_ray.scoring.parts import (
    RECORD,
    check_columns,
    check_output,
    find_sources,
    open_output,
)
from bebert_ray.storage import Location, read, write_atomic

COMMAND = {"model": "digest", "text columns": ("text",)}


@pytest.fixture
def data(tmp_path):
    """A directory of files in all formats, five rows each, and some that are none."""
    directory = tmp_path / "data"
    (directory / "more").mkdir(parents=True)
    rows = pa.table({"text": [f"row {i}" for i in range(5)]})
    pq.write_table(rows, directory / "b.parquet")
    lines = "".join(f"row {i}\n" for i in range(5))
    (directory / "a.csv").write_text("text\n" + lines)
    (directory / "more" / "a.TSV").write_text("text\n" + lines)
    (directory / "more" / "c.jsonl").write_text('{"text": "row"}\n' * 5)
    for name in ("_SUCCESS", "_old.csv", ".hidden.csv", "README.md"):
        (directory / name).write_text("text\nno row\n")
    return directory


@pytest.fixture
def output(tmp_path):
    return Location.of(tmp_path / "out")


def found(places, output):
    return [source.location.name for source in find_sources([str(p) for p in places], output)]


def test_directories_are_searched_and_files_are_named(data, output):
    assert found([data], output) == ["a.csv", "b.parquet", "a.TSV", "c.jsonl"]
    assert found([data / "more" / "c.jsonl", data / "a.csv"], output) == ["c.jsonl", "a.csv"]
    assert found([data / "a.csv", data], output).count("a.csv") == 1


def test_input_that_cannot_be_read_is_refused(data, output, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: there is no such file"):
        found([tmp_path / "nowhere"], output)
    with pytest.raises(UserError, match=r"README\.md.*\.csv, \.tsv, \.jsonl, \.parquet"):
        found([data / "README.md"], output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no file"):
        found([tmp_path / "empty"], output)
    for inside in (data, data / "out"):
        with pytest.raises(UserError, match="choose one elsewhere"):
            found([data], Location.of(inside))
    assert found([data], Location.of(tmp_path / "data2"))


def test_a_name_that_is_not_utf8_is_told(tmp_path, output):
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/in/odd\xff.csv")).write_text("text\ngood\n")
    with pytest.raises(UserError, match=r"odd\\udcff\.csv' is not UTF-8 text; rename it"):
        find_sources([str(tmp_path / "in")], output)


def test_columns_are_looked_for_in_every_file(data, output):
    sources = find_sources([str(data)], output)
    check_columns(sources, ["text"], ["label"])
    (data / "more" / "a.TSV").write_text("sentence\tlabel\nrow\t1\n")
    with pytest.raises(UserError, match=r"a\.TSV: there is no column 'text'.*sentence, label"):
        check_columns(sources, ["text"], ["label"])
    with pytest.raises(UserError, match=r"a\.TSV: has a column 'label' already.*--prefix"):
        check_columns(sources[2:], ["sentence"], ["label"])


def test_parts_hold_all_rows_in_order_and_are_kept(data, output):
    sources = find_sources([str(data)], output)
    parts = open_output(output, COMMAND, sources, 3)
    assert [part.name for part in parts] == [
        *("part-000000.csv", "part-000001.csv", "part-000002.parquet", "part-000003.parquet"),
        *("part-000004.tsv", "part-000005.tsv", "part-000006.jsonl", "part-000007.jsonl"),
    ]
    assert [part.span.rows for part in parts] == [3, 2] * 4
    assert [part.span.first for part in parts] == [2, 5, 1, 4, 2, 5, 1, 4]
    assert parts[7].source == str(data / "more" / "c.jsonl")
    assert open_output(output, COMMAND, sources, 3) == parts


def test_the_output_of_another_command_is_left_alone(data, output):
    def open_again(**changed):
        open_output(output, COMMAND | changed, find_sources([str(data)], output), 3)

    open_again()
    record = read(output / RECORD)
    with pytest.raises(UserError, match="another command: not the same are model"):
        open_again(model="other")
    os.utime(data / "a.csv", (0, 0))
    with pytest.raises(UserError, match="not the same are input"):
        open_again()
    assert read(output / RECORD) == record


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"command": {}}', b'{"command": 1, "parts": 1}']
)
def test_a_damaged_record_is_told(data, output, content):
    write_atomic(output / RECORD, content)
    with pytest.raises(UserError, match=r"_predict\.json is not as it was written"):
        open_output(output, COMMAND, find_sources([str(data)], output), 3)


def test_a_directory_with_other_things_is_left_alone(output):
    write_atomic(output / "thesis.tex", "")
    with pytest.raises(UserError, match=r"holds other things \(thesis\.tex"):
        check_output(output)


def test_input_without_rows_is_refused(tmp_path, output):
    (tmp_path / "empty.csv").write_text("text\n")
    sources = find_sources([str(tmp_path / "empty.csv")], output)
    with pytest.raises(UserError, match="no rows"):
        open_output(output, COMMAND, sources, 3)


def test_an_object_store_does_as_well(bucket, tmp_path):
    write_atomic(bucket / "in" / "deep" / "a.csv", "text\none\ntwo\n")
    write_atomic(bucket / "in" / "b.jsonl", '{"text": "three"}\n')
    sources = find_sources([str(bucket / "in")], bucket / "out")
    parts = open_output(bucket / "out", COMMAND, sources, 1)
    assert [Location.parse(part.source).name for part in parts] == ["b.jsonl", "a.csv", "a.csv"]
    assert open_output(bucket / "out", COMMAND, sources, 1) == parts
    with pytest.raises(UserError, match="choose one elsewhere"):
        find_sources([str(bucket)], bucket / "out")


def test_directories_of_partitions_are_read(tmp_path, output):
    for folder in ("_year=2020/month=1", "year=__HIVE_DEFAULT_PARTITION__", "_logs", "_logs/a=1"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.csv").write_text("text\nrow\n")
    (tmp_path / "data" / "_year=2020" / "_a.csv").write_text("text\nrow\n")
    sources = find_sources([str(tmp_path / "data")], output)
    assert [source.partition for source in sources] == [
        {"_year": "2020", "month": "1"},
        {"year": None},
    ]
    parts = open_output(output, COMMAND, sources, 3)
    assert [part.partition for part in parts] == [source.partition for source in sources]
    assert open_output(output, COMMAND, sources, 3) == parts
    with pytest.raises(UserError, match="has a column 'month' already"):
        check_columns(sources, ["text"], ["month"])


def test_messages_of_columns_are_short(tmp_path, output):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"column_{i}" for i in range(5000)) + "\n")
    sources = find_sources([str(path)], output)
    with pytest.raises(UserError) as caught:
        check_columns(sources, ["text"], [])
    assert len(str(caught.value)) - len(str(path)) < 300
    path.write_text("text,text,id,id\n")
    with pytest.raises(UserError, match="2 columns are named 'text'"):
        check_columns(sources, ["text"], [])
