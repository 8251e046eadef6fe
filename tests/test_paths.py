"""Paths as people give them, and texts that may hold a secret."""

import time

import pytest

from bebert_ray.config import load_config
from bebert_ray.data.tasks import task_name
from bebert_ray.errors import UserError
from bebert_ray.paths import expand, hidden


@pytest.mark.parametrize("path", ["runs/" + "a" * 256, "ü" * 128, "/runs" * 1000])
def test_a_path_that_no_file_system_takes(path):
    with pytest.raises(UserError, match=f"has {len(path):,} letters; a file system takes names"):
        expand(path)


@pytest.mark.parametrize("path", ["a" * 255, "s3://bucket/" + "a" * 900, "/runs" * 800])
def test_a_path_that_one_takes(path):
    assert expand(path) == path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1https://me:pw@host", "1https://…@host"),
        ("a+b.c-https://me:pw@host", "a+b.c-https://…@host"),
        ("path=-s3://bucket/x?secret=1", "path=-s3://bucket/x?…"),
        ("s3://bucket/x and https://me:pw@host", "s3://bucket/x and https://…@host"),
    ],
)
def test_an_address_within_a_text(text, shown):
    assert hidden(text) == shown


@pytest.mark.parametrize("unit", ["a", "a:", "a+", "1.", "a://", "a@b:"])
def test_a_long_value_is_refused_at_once(unit):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        load_config(None, [f"task={unit * (100_000 // len(unit))}"])
    assert time.monotonic() - start < 10  # 45 s, when it took the square of the length
    assert len(str(error.value)) < 700


def test_a_task_that_there_is_not():
    with pytest.raises(UserError, match=r"there is no task 'mprc'; did you mean 'mrpc'\? The"):
        task_name("mprc")
    with pytest.raises(UserError, match=r"there is no task 'a{60}'\. The tasks"):
        task_name("a" * 100)
