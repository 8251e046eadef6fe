"""Parquet files: cut, read and written again."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.data.formats import PARQUET, base
from bebert_ray.errors import UserError
from bebert_ray.storage import Location


def table(count):
    return pa.table(
        {
            "id": pa.array(range(count), pa.int16()),
            "text": [f"text {i}" for i in range(count)],
            "nested": [{"tags": ["x"] * (i % 3)} for i in range(count)],
        }
    )


@pytest.fixture
def write(tmp_path):
    def write(rows, **options):
        pq.write_table(rows, tmp_path / "file.parquet", **options)
        return Location.of(tmp_path / "file.parquet")

    return write


@pytest.mark.parametrize("row_group_size", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("limit", [1, 3, 4, 50])
def test_parts_hold_every_row_once_and_in_order(write, row_group_size, limit):
    rows = table(10)
    location = write(rows, row_group_size=row_group_size)
    parts = [PARQUET.read(location, span, ("text",), ()) for span in PARQUET.cut(location, limit)]
    assert all(len(part.numbers) == len(part.data) <= limit for part in parts)
    assert pa.concat_tables(part.data for part in parts).equals(rows)
    assert [number for part in parts for number in part.numbers] == list(range(1, 11))
    assert [text for part in parts for text in part.values[0]] == rows["text"].to_pylist()


def test_long_rows_make_small_parts(write, monkeypatch):
    location = write(pa.table({"text": [str(i) * 1000 for i in range(10)]}))
    monkeypatch.setattr(base, "MAX_BYTES", 2000)
    assert 1 <= max(span.rows for span in PARQUET.cut(location, 100)) <= 5


def test_a_file_without_rows_has_no_parts(write):
    assert list(PARQUET.cut(write(table(0)), 5)) == []


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_text_may_be_stored_in_any_way(write, kind):
    location = write(pa.table({"text": pa.array(["a", None, "b"]).cast(kind)}))
    assert PARQUET.columns(location, ("text",)) == ["text"]
    [span] = PARQUET.cut(location, 9)
    assert PARQUET.read(location, span, ("text",), ()).values == (["a", None, "b"],)


def test_bytes_that_are_no_text_are_left_to_be_told(write):
    column = pa.array([b"a", b"\xff"]).view(pa.string())
    location = write(pa.table({"text": column}))
    [span] = PARQUET.cut(location, 9)
    assert PARQUET.read(location, span, ("text",), ()).values == (["a", b"\xff"],)


def test_a_column_that_is_no_text_is_refused(write):
    with pytest.raises(UserError, match="'id' is of type int16, which is not text"):
        PARQUET.columns(write(table(1)), ("id",))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "file.parquet").write_text("id,text\n")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        PARQUET.columns(Location.of(tmp_path / "file.parquet"), ())


def test_what_is_written_keeps_types_and_metadata(write):
    rows = table(4).replace_schema_metadata({"made": "by hand"})
    location = write(rows)
    [span] = PARQUET.cut(location, 9)
    data = PARQUET.read(location, span, ("text",), ()).data
    added = {"label": pa.array(["a", "b", "c"])}
    written = pq.read_table(io.BytesIO(PARQUET.write(data, [0, 1, 3], added)))
    assert written.drop_columns("label").equals(rows.take([0, 1, 3]))
    assert written["label"].to_pylist() == ["a", "b", "c"]
    assert written.schema.metadata[b"made"] == b"by hand"
    none = {"label": pa.array([], pa.string())}
    assert pq.read_table(io.BytesIO(PARQUET.write(data, [], none))).num_rows == 0
