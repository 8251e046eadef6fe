"""CSV, TSV and JSONL files: cut, read and written again."""

import csv
import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.data.formats import CSV, JSONL, TSV, base
from bebert_ray.errors import UserError
from bebert_ray.storage import Location


def read(kind, path, limit=2, columns=("text",), added=("label",)):
    """All parts of a file."""
    location = Location.of(path)
    return [kind.read(location, span, columns, added) for span in kind.cut(location, limit)]


def texts(parts):
    """The first text column by row number."""
    return {
        number: value
        for part in parts
        for number, value in zip(part.numbers, part.values[0], strict=True)
    }


def bad(parts):
    return {number: reason for part in parts for number, reason in part.bad}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_a_csv_row_is_named_by_the_line_where_it_starts(write):
    path = write('id,text\n1,one\n2,"two\nlines, quoted ""so"""\n\n3,three\n')
    parts = read(CSV, path)
    assert [len(part.numbers) for part in parts] == [2, 1]
    assert texts(parts) == {2: "one", 3: 'two\nlines, quoted "so"', 6: "three"}
    assert not bad(parts)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_marks_at_the_beginning_and_the_end_do_not_matter(write, start, end):
    path = write(start + b"text,id\nfirst,1\nlast,2" + end)
    assert texts(read(CSV, path)) == {2: "first", 3: "last"}
    path = write(start + b"text\tid\nfirst\t1\nlast\t2" + end)
    assert texts(read(TSV, path)) == {2: "first", 3: "last"}
    path = write(start + b'{"text": "first"}\n{"text": "last"}' + end)
    assert texts(read(JSONL, path)) == {1: "first", 2: "last"}


def test_csv_rows_that_do_not_fit_are_bad_and_lose_no_other(write):
    path = write('id,text\n1,one\n2\n3,three,more\n4,"never closed\n5,five\n6,"a" b\n7,\n')
    parts = read(CSV, path)
    assert texts(parts) == {2: "one", 6: "five", 8: ""}
    assert bad(parts) == {
        3: "expected 2 columns, found 1",
        4: "expected 2 columns, found 3",
        5: "not valid CSV (unexpected end of data)",
        7: "not valid CSV (',' expected after '\"')",
    }


def test_tsv_knows_no_quotes_and_no_missing_text(write):
    path = write('id\ttext\n1\t"one\n2\t\n3\tone\u2028two\n4\n')
    parts = read(TSV, path)
    assert texts(parts) == {2: '"one', 3: "", 4: "one\u2028two"}
    assert bad(parts) == {5: "expected 2 columns, found 1"}


def test_json_lines_that_are_no_rows_are_bad(write):
    path = write(
        b'{"text": "a"}\n\n{"text": \n[1]\n{"text": "\xff"}\n{"text": "b", "label": 1}\n{"id": 5}\n'
    )
    parts = read(JSONL, path)
    assert texts(parts) == {1: "a"}
    reasons = bad(parts)
    assert list(reasons) == [3, 4, 5, 6, 7]
    assert reasons[3].startswith("not valid JSON")
    assert reasons[4] == "not a JSON object"
    assert reasons[5].startswith("not valid JSON")
    assert reasons[6] == "has a column 'label' already"
    assert reasons[7] == "there is no column 'text'; the columns are: id"


def test_a_part_is_small_however_long_its_rows_are(write, monkeypatch):
    monkeypatch.setattr(base, "MAX_BYTES", 100)
    path = write("".join(json.dumps({"text": "x" * length}) + "\n" for length in (200, 10, 80, 9)))
    assert [part.numbers for part in read(JSONL, path, limit=10)] == [[1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("kind", "content", "names"),
    [
        (CSV, 'a,"b c"\n', ["a", "b c"]),
        (TSV, "a\tb c\r\n", ["a", "b c"]),
        (JSONL, '{"a": 1}\nnonsense\n{"b c": 2, "a": 3}\n', ["a", "b c"]),
        (JSONL, "", []),
    ],
)
def test_the_columns_of_a_file(write, kind, content, names):
    assert kind.columns(Location.of(write(content)), ()) == names


@pytest.mark.parametrize("content", ["", "\n", '"a\n'])
def test_a_csv_file_without_a_header_is_refused(write, content):
    with pytest.raises(UserError, match="file"):
        CSV.columns(Location.of(write(content)), ())


def test_a_file_that_is_gone_is_told_by_name(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: there is no such file"):
        list(CSV.cut(Location.of(tmp_path / "gone.csv"), 5))


ADDED = {"label": pa.array(["good", "bäd"]), "p": pa.array([0.25, 1e-7])}


def test_what_is_written_is_what_was_read_and_new_columns(write):
    [part] = read(CSV, write(b'id,text\n1,"a, b"\n2,dropped\n3,"caf\xe9"\n'), limit=9)
    assert CSV.write(part.data, [0, 2], ADDED) == (
        b'id,text,label,p\n1,"a, b",good,0.25\n3,caf\xe9,b\xc3\xa4d,1e-07\n'
    )
    [part] = read(TSV, write('id\ttext\n1\t"a\n2\tb\n'), limit=9)
    assert TSV.write(part.data, [0, 1], ADDED).decode() == (
        'id\ttext\tlabel\tp\n1\t"a\tgood\t0.25\n2\tb\tbäd\t1e-07\n'
    )
    [part] = read(JSONL, write('{"n": 1.10, "text": "\\u00e4"}\n  {"text": "b" } \n'), limit=9)
    assert JSONL.write(part.data, [0, 1], ADDED).decode() == (
        '{"n": 1.10, "text": "\\u00e4", "label": "good", "p": 0.25}\n'
        '{"text": "b" , "label": "bäd", "p": 1e-07}\n'
    )


def test_a_part_of_bad_rows_alone_still_gives_a_file(write):
    [part] = read(CSV, write("id,text\n1\n"))
    none = {name: values[:0] for name, values in ADDED.items()}
    assert CSV.write(part.data, [], none) == b"id,text,label,p\n"


@given(
    st.lists(st.tuples(st.text("ab\",\n'", max_size=8), st.integers(0, 99)), min_size=1),
    st.integers(1, 4),
)
def test_any_csv_comes_back_in_order_however_it_is_cut(tmp_path_factory, rows, limit):
    path = tmp_path_factory.mktemp("csv") / "file.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "n"), *rows])
    parts = read(CSV, path, limit)
    again = []
    for part in parts:
        count = len(part.numbers)
        assert 0 < count <= limit
        content = CSV.write(part.data, range(count), {"new": pa.array(["x"] * count)}).decode()
        header, *body = csv.reader(io.StringIO(content, newline=""))
        assert header == ["text", "n", "new"]
        again += body
    assert again == [[string, str(n), "x"] for string, n in rows]
