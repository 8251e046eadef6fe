"""The copies of remote artifacts on this machine."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs
import pytest

from bebert_ray import storage
from bebert_ray.errors import UserError
from bebert_ray.storage import Artifact, Location, Miss, commit, copies, fetch, find

INPUTS = {"seed": 1}
NAMES = {"model.safetensors", "tokenizer/vocab.txt"}


def write(directory, content=b"weights"):
    (directory / "model.safetensors").write_bytes(content)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
    return {}


@pytest.fixture
def downloads(monkeypatch):
    """The names of all files that have been copied from a store."""
    names, real = [], copies.download

    def download(location, wanted, directory):
        names.extend(wanted)
        real(location, wanted, directory)

    monkeypatch.setattr(copies, "download", download)
    return names


@pytest.fixture(params=["bucket", "mount"])
def teacher(request) -> Location:
    """Where an artifact may be, in a remote place."""
    return request.getfixturevalue(request.param) / "teacher"


def test_the_writer_has_a_copy_and_others_make_one_once(teacher, cache, downloads):
    path = commit(teacher, "teacher", INPUTS, write).path
    assert path.is_relative_to(cache)
    assert find(teacher, INPUTS).path == path
    assert downloads == []
    shutil.rmtree(cache)  # another machine
    found = find(teacher, INPUTS)
    assert (found.path / "model.safetensors").read_bytes() == b"weights"
    assert set(downloads) == {*NAMES, "artifact.json"}
    assert find(teacher, INPUTS) == fetch(teacher) == found
    assert len(downloads) == 3


def test_a_damaged_copy_is_made_anew(teacher, downloads):
    path = commit(teacher, "teacher", INPUTS, write).path
    for damage in (b"weighty", b"we"):
        (path / "model.safetensors").write_bytes(damage)
        assert (find(teacher, INPUTS).path / "model.safetensors").read_bytes() == b"weights"
    (path / "model.safetensors").unlink()
    assert isinstance(find(teacher, INPUTS), Artifact)
    assert len(downloads) == 9


def test_what_another_machine_has_written_is_fetched(teacher, cache):
    commit(teacher, "teacher", INPUTS, write)
    shutil.move(cache, cache.with_name("here"))
    commit(teacher, "teacher", INPUTS, lambda directory: write(directory, b"other"))
    shutil.rmtree(cache)
    shutil.move(cache.with_name("here"), cache)
    found = find(teacher, INPUTS)
    assert (found.path / "model.safetensors").read_bytes() == b"other"
    assert {path.name for path in found.path.parent.iterdir()} == {".lock", found.path.name}


def test_processes_of_a_machine_copy_it_once(teacher, cache, downloads):
    commit(teacher, "teacher", INPUTS, write)
    shutil.rmtree(cache)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find(teacher, INPUTS), range(8)))
    assert all(artifact == found[0] for artifact in found)
    assert len(downloads) == 3


def test_what_is_removed_there_is_removed_here(teacher, cache):
    run = teacher.parent
    for name in ("checkpoints/teacher/1", "checkpoints/teacher/2", "teacher"):
        commit(run / name, "teacher", INPUTS, write)
    storage.remove(run / "checkpoints" / "teacher" / "1")
    assert {path.parent.parent.name for path in cache.rglob("model.safetensors")} == {
        "2",
        "teacher",
    }
    storage.remove(run / "checkpoints")
    assert {path.parent.parent.name for path in cache.rglob("model.safetensors")} == {"teacher"}
    assert isinstance(find(teacher, INPUTS), Artifact)


@pytest.mark.parametrize("failing", range(5))
def test_a_writer_that_dies_leaves_no_artifact_and_the_next_one_makes_it(
    teacher, monkeypatch, failing
):
    """Of the requests to the store that change something, one fails."""
    commit(teacher, "teacher", {"seed": 0}, write)
    real, left = copies.put, failing

    def put(location, action):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError("connection lost")
        real(location, action)

    with monkeypatch.context() as patch:
        patch.setattr(copies, "put", put)
        if failing >= 4:  # the sign that it is unfinished, two files and the record go well
            commit(teacher, "teacher", INPUTS, write)
        else:
            with pytest.raises(UserError, match=r"teacher.*: connection lost"):
                commit(teacher, "teacher", INPUTS, write)
            changed = Miss("inputs changed: seed")
            assert find(teacher, INPUTS) == (Miss("absent") if failing else changed)
    commit(teacher, "teacher", INPUTS, write)
    assert isinstance(find(teacher, INPUTS), Artifact)


def test_only_files_are_made_in_a_store(bucket, s3):
    commit(bucket / "teacher", "teacher", INPUTS, write)
    assert {entry["Key"] for entry in s3.list_objects_v2(Bucket="runs")["Contents"]} == {
        f"mrpc/teacher/{name}" for name in NAMES | {"artifact.json"}
    }


def test_stores_are_told_apart(teacher, tmp_path):
    (tmp_path / "other").mkdir()
    local = pyarrow.fs.LocalFileSystem()
    other = Location(
        pyarrow.fs.SubTreeFileSystem(str(tmp_path / "other"), local),
        teacher.path,
        "other://host/runs/mrpc/teacher",
    )
    assert copies.home(other) != copies.home(teacher)
    assert copies.home(teacher / "a").is_relative_to(copies.home(teacher))
