"""What may lie where a data file should be."""

import os

import pytest

from bebert_ray.data.tables import read_table
from bebert_ray.errors import UserError
from bebert_ray.scoring.parts import check_columns, find_sources
from bebert_ray.storage import Location

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"


def train(path):
    read_table(path, ["text"])


def predict(path):
    output = Location.of(path.parent.parent / "out")
    check_columns(find_sources([str(path)], output), ["text"], [])


@pytest.mark.parametrize("use", [train, predict])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "is a pointer of Git LFS and not the file itself; run `git lfs pull`"),
        ("<!DOCTYPE html>\n<html></html>", "is a web page"),
        ("\n<HTML></HTML>", "is a web page"),
    ],
)
def test_it_is_named_for_what_it_is(tmp_path, use, suffix, content, message):
    path = tmp_path / f"train{suffix}"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        use(path)
    assert str(path) in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize("use", [train, predict])
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, use):
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(UserError, match="is a pipe or a device"):
        use(tmp_path / "train.csv")
