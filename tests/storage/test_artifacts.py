"""Artifacts in all kinds of places: what `find` says after anything that can happen.

The disk, the kills and the S3 server are real.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors import SafetensorError

from bebert_ray import storage
from bebert_ray.errors import RunError, UserError
from bebert_ray.storage import Artifact, Miss, artifacts, commit, fetch, find, fingerprint

OLD = {"seed": 1, "data": {"path": None, "lengths": [8, 16]}}
NEW = {"seed": 2, "data": {"path": None, "lengths": [8, 16]}}
FILES = ["model.safetensors", "tokenizer/vocab.txt", "facts.json"]


def writing(content=b"weights"):
    def write(directory):
        (directory / "model.safetensors").write_bytes(content)
        (directory / "tokenizer").mkdir()
        (directory / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
        (directory / "facts.json").write_text("{}")
        return {"accuracy": 0.8}

    return write


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def reason(place, inputs=OLD):
    found = find(place, inputs)
    assert isinstance(found, Miss)
    return found.reason


# --- commit, find and fetch ---


def test_what_is_committed_is_found(place):
    assert reason(place) == "absent"
    committed = commit(place, "teacher", OLD, writing())
    assert find(place, OLD) == fetch(place) == committed
    assert committed.location == place
    assert (committed.stage, committed.inputs) == ("teacher", OLD)
    assert committed.facts == {"accuracy": 0.8}
    assert {name: (committed.path / name).read_bytes() for name in FILES} == {
        name: storage.read(place / name) for name in FILES
    }
    assert storage.names(place.parent) == {place.name}
    assert storage.names(place) == {
        *("artifact.json", "facts.json", "model.safetensors", "tokenizer")
    }
    record = json.loads(storage.read(place / "artifact.json"))
    assert record["fingerprint"] == fingerprint(OLD)
    assert sorted(record["files"]) == sorted(FILES)
    assert record["files"]["model.safetensors"]["bytes"] == 7


def test_inputs_come_back_as_json_gives_them(tmp_path):
    committed = commit(tmp_path / "a", "half", {"keep": (1, 2)}, lambda _: {"at": (3,)})
    assert committed.inputs == {"keep": [1, 2]}
    assert committed.facts == {"at": [3]}
    assert find(tmp_path / "a", {"keep": (1, 2)}) == committed


def test_digest_is_of_the_files_alone(tmp_path):
    first = commit(tmp_path / "a", "half", OLD, writing())
    assert commit(tmp_path / "b", "other", NEW, writing()).digest == first.digest
    assert commit(tmp_path / "c", "half", OLD, writing(b"Weights")).digest != first.digest


def test_changed_inputs_are_named(tmp_path):
    commit(tmp_path / "a", "half", OLD, writing())
    changed = {"seed": 2, "data": {"lengths": [8], "path": None, "holdout": 0.1}}
    assert reason(tmp_path / "a", changed) == "inputs changed: data.holdout, data.lengths, seed"
    assert reason(tmp_path / "a", {"data": None}) == "inputs changed: data, seed"
    assert fetch(tmp_path / "a").inputs == OLD


def test_a_new_artifact_takes_the_place_of_the_old(place):
    commit(place, "half", OLD, writing())

    def write(directory):
        (directory / "model.safetensors").write_bytes(b"new")
        return {}

    new = commit(place, "half", NEW, write)
    assert reason(place) == "inputs changed: seed"
    assert find(place, NEW) == new
    assert (new.path / "model.safetensors").read_bytes() == b"new"
    assert not any(storage.exists(place / name) for name in ("tokenizer/vocab.txt", "facts.json"))


@pytest.mark.parametrize("name", FILES)
def test_damage_to_any_file_is_seen_and_mended_by_the_next_commit(place, name):
    commit(place, "half", OLD, writing())
    content = storage.read(place / name)
    for damaged in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:], b""):
        storage.write_atomic(place / name, damaged)
        assert reason(place) == f"damaged: {name} is not as it was written"
    with pytest.raises(RunError, match=f"{place.name}.* is damaged: {name} is not as it was"):
        fetch(place)
    storage.remove(place / name)
    assert reason(place) == f"damaged: {name} is missing"
    commit(place, "half", OLD, writing())
    assert isinstance(find(place, OLD), Artifact)


def test_a_flipped_bit_anywhere_in_the_record_is_seen_or_of_no_matter(tmp_path):
    path = tmp_path / "a"
    committed = commit(path, "half", OLD, writing())
    record = (path / "artifact.json").read_bytes()
    harmless = 0
    for position in range(len(record)):
        flipped = record[position] ^ 1
        (path / "artifact.json").write_bytes(
            record[:position] + bytes([flipped]) + record[position + 1 :]
        )
        found = find(path, OLD)
        if isinstance(found, Artifact):
            assert found == committed
            harmless += 1
        else:
            assert found.reason == "damaged: artifact.json is not as it was written"
    assert harmless < len(record) / 20


@pytest.mark.parametrize(
    "record",
    [
        *(b"", b"{", b"[]", b"null", b"7", b'"x"', b"{}", b'{"files": 1}', b'{"files": "ab"}'),
        b"\xff",
    ],
)
def test_a_damaged_record_is_seen(tmp_path, record):
    path = tmp_path / "a"
    commit(path, "half", OLD, writing())
    (path / "artifact.json").write_bytes(record)
    assert reason(path) == "damaged: artifact.json is not as it was written"
    (path / "artifact.json").unlink()
    assert reason(path) == "absent"
    with pytest.raises(RunError, match="a is absent"):
        fetch(path)


def test_no_record_reaches_beyond_its_artifact(place, tmp_path):
    commit(place, "half", OLD, writing())
    entries = json.loads(storage.read(place / "artifact.json"))
    (tmp_path / "other").write_text("{}")
    for name in ("../other", str(tmp_path / "other")):
        entries["files"] = {name: entries["files"].popitem()[1]}
        del entries["checksum"]
        entries["checksum"] = fingerprint(entries)
        storage.write_atomic(place / "artifact.json", json.dumps(entries))
        assert reason(place) == "damaged: artifact.json is not as it was written"


def test_a_record_of_an_earlier_version_needs_no_checksum(tmp_path):
    path = tmp_path / "a"
    committed = commit(path, "half", OLD, writing())
    entries = json.loads((path / "artifact.json").read_text())
    del entries["checksum"]
    (path / "artifact.json").write_text(json.dumps(entries))
    assert find(path, OLD) == committed


def test_what_is_no_artifact_is_never_replaced(place):
    for thing in (place / "chapter1.tex", place / "a" / "chapter1.tex", place):
        storage.write_atomic(thing, "the introduction")
        with pytest.raises(UserError, match=f"{place.name}.* is not an artifact"):
            commit(place, "half", OLD, lambda _: pytest.fail("asked to write"))
        assert storage.read(thing) == b"the introduction"
        storage.remove(place)


def test_an_empty_directory_is_nobodys_loss(tmp_path):
    (tmp_path / "a").mkdir()
    commit(tmp_path / "a", "half", OLD, writing())
    assert isinstance(find(tmp_path / "a", OLD), Artifact)


# --- several at once ---


def test_a_writer_believed_dead_and_the_one_in_its_place_both_end_well(place):
    """The first is about to take its place when the second comes, and is through, in between."""
    second = None

    def write(directory):
        nonlocal second
        second = commit(place, "half", OLD, writing())
        return writing()(directory) | {"seconds": 1}

    first = commit(place, "half", OLD, write)
    assert find(place, OLD) == first == second  # whoever reads it already is not disturbed
    assert storage.names(place.parent) == {place.name}


def test_many_writers_and_readers_of_one_place(tmp_path):
    """A reader may see none, as there is none between two renames, but is never told an untruth."""
    path, whole = tmp_path / "a", set()

    def write_and_read(number):
        commit(path, "half", {"number": number}, writing(b"%d" % number))
        for inputs in ({"number": number}, {"number": number - 1}):
            found = find(path, inputs)
            if isinstance(found, Artifact):
                whole.add(found.inputs["number"])
                assert found.inputs == inputs

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_and_read, range(200)))
    assert whole
    assert fetch(path).stage == "half"
    assert os.listdir(tmp_path) == ["a"]


def test_what_another_writer_moves_away_is_looked_at_again(tmp_path, monkeypatch):
    """While it is moved, a listing may have files of it and not its record."""
    path, parts = tmp_path / "a", [{"model.safetensors"}]
    commit(path, "half", OLD, writing())
    whole = artifacts.names
    monkeypatch.setattr(artifacts, "names", lambda place: parts.pop() if parts else whole(place))
    commit(path, "half", NEW, writing())
    assert not parts
    assert isinstance(find(path, NEW), Artifact)


def test_a_writer_whose_draft_is_swept_fails_and_the_artifact_stays(tmp_path):
    commit(tmp_path / "a", "half", OLD, writing())

    def write(directory):
        storage.sweep(tmp_path)
        return writing(b"new")(directory)

    with pytest.raises(UserError, match="cannot write"):
        commit(tmp_path / "a", "half", NEW, write)
    assert isinstance(find(tmp_path / "a", OLD), Artifact)
    assert names(tmp_path) == ["a"]


# --- what goes wrong ---


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("older", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_artifact_or_the_new_one(tmp_path, older):
    """A child process commits and is killed as it touches the file system for the k-th time."""
    outcomes = set()
    for moment in range(1000):
        path = tmp_path / str(moment) / "a"
        if older:
            commit(path, "half", OLD, writing())
        if not killed_at(moment, lambda path=path: commit(path, "half", NEW, writing(b"new"))):
            break
        old, new = find(path, OLD), find(path, NEW)
        if isinstance(new, Artifact):
            outcomes.add("new")
        elif isinstance(old, Artifact):
            outcomes.add("old")
        else:
            assert new.reason == "absent"
            outcomes.add("absent")
        commit(path, "half", OLD, writing())
        assert isinstance(find(path, OLD), Artifact)
        storage.sweep(path.parent)
        assert names(path.parent) == ["a"]
    assert isinstance(find(path, NEW), Artifact)
    assert moment > 15
    assert outcomes == {"new", "absent"} | ({"old"} if older else set())


def killed_at(moment, action):
    """Whether a child that does `action` was killed at its `moment`-th system event."""
    child = os.fork()
    if child == 0:
        left = moment

        def count(event, _):
            nonlocal left
            if event == "open" or event.startswith(("os.", "shutil.")):
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_an_error_of_the_system_at_any_moment_leaves_the_old_or_the_new(
    tmp_path, monkeypatch, call
):
    real, path = getattr(os, call), tmp_path / "a"
    for moment in range(100):
        commit(path, "half", OLD, writing())
        calls = 0

        def failing(*arguments, moment=moment):
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments)

        monkeypatch.setattr(os, call, failing)
        try:
            commit(path, "half", NEW, writing(b"new"))
            break
        except UserError as error:
            assert "Input/output error" in str(error)
        finally:
            monkeypatch.setattr(os, call, real)
        assert isinstance(find(path, NEW), Artifact) != isinstance(find(path, OLD), Artifact)
    assert moment >= 1
    assert isinstance(find(path, NEW), Artifact)


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors"),
        SafetensorError("No space left on device (os error 28)"),
        ValueError("diverged"),
        KeyboardInterrupt(),
    ],
)
def test_a_stage_that_fails_leaves_nothing_half_written(tmp_path, trouble):
    path = tmp_path / "a"
    commit(path, "half", OLD, writing())

    def write(directory):
        (directory / "model.safetensors").write_bytes(b"half")
        raise trouble

    with pytest.raises(BaseException) as caught:
        commit(path, "half", NEW, write)
    if isinstance(trouble, OSError | SafetensorError):
        assert isinstance(caught.value, UserError)
        assert f"cannot write {path}: No space left on device" in str(caught.value)
    else:
        assert caught.value is trouble
    assert names(tmp_path) == ["a"]
    assert isinstance(find(path, OLD), Artifact)


@pytest.mark.parametrize("facts", [{"model": object()}, None])
def test_facts_that_are_not_json_are_refused_and_nothing_is_left(tmp_path, facts):
    with pytest.raises(TypeError):
        commit(tmp_path / "a", "half", OLD, lambda _: facts)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_artifact_and_once_there_is_room_the_new_one(small_disk):
    path = small_disk / "a"
    commit(path, "half", OLD, writing())
    (small_disk / "hog").write_bytes(bytes(900_000))
    for size in (200_000, 119_000):  # too much for the files, and for the record
        with pytest.raises(UserError, match=f"cannot write {path}: No space left on device"):
            commit(path, "half", NEW, writing(bytes(size)))
        assert names(small_disk) == ["a", "hog"]
        assert isinstance(find(path, OLD), Artifact)
    (small_disk / "hog").unlink()
    commit(path, "half", NEW, writing(bytes(200_000)))
    assert isinstance(find(path, NEW), Artifact)


def test_a_full_cache_is_named_and_nothing_is_left_in_it(bucket, small_disk, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    with pytest.raises(UserError, match=r"No space left on device.*XDG_CACHE_HOME"):
        commit(bucket / "a", "half", OLD, writing(bytes(2_000_000)))
    assert not any(path.is_file() for path in small_disk.rglob("*"))
    commit(bucket / "a", "half", OLD, writing(bytes(200_000)))
    assert isinstance(find(bucket / "a", OLD), Artifact)


def test_a_read_only_disk_is_an_error_for_people(small_disk):
    commit(small_disk / "a", "half", OLD, writing())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"a: Read-only file system .*set the permissions right"):
        commit(small_disk / "a", "half", NEW, writing())
    with pytest.raises(UserError, match="Read-only file system"):
        storage.write_atomic(small_disk / "results.json", "{}")
    with pytest.raises(UserError, match="cannot lock"), storage.lock(small_disk):
        pass
    with pytest.raises(UserError, match="cannot delete"):
        storage.remove(small_disk / "a")
    storage.sweep(small_disk)
    assert isinstance(find(small_disk / "a", OLD), Artifact)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_an_error_for_people(tmp_path):
    commit(tmp_path / "a", "half", OLD, writing())
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            commit(tmp_path / "a", "half", NEW, writing())
        with pytest.raises(UserError, match="Permission denied"):
            storage.write_atomic(tmp_path / "results.json", "{}")
        with pytest.raises(UserError, match="cannot lock"), storage.lock(tmp_path):
            pass
        assert isinstance(find(tmp_path / "a", OLD), Artifact)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_a_directory_should_be_is_an_error_for_people(tmp_path):
    (tmp_path / "runs").touch()
    below = tmp_path / "runs" / "mrpc"
    with pytest.raises(UserError, match="mrpc: Not a directory"):
        commit(below, "half", OLD, writing())
    with pytest.raises(UserError, match="cannot write"):
        storage.write_atomic(below, "")
    with pytest.raises(UserError, match="cannot lock"), storage.lock(below):
        pass


def test_the_umask_decides_who_may_read_the_files(tmp_path):
    def write(directory):
        descriptor = os.open(directory / "weights", os.O_CREAT | os.O_WRONLY, 0o600)
        os.close(descriptor)
        return {}

    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            path = commit(tmp_path / f"{mode:o}", "encoder", OLD, write).path
        finally:
            os.umask(before)
        assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {mode}


def test_an_artifact_of_a_newer_version_is_refused_and_stays_as_it_is(tmp_path):
    place = tmp_path / "encoder"
    commit(place, "encoder", OLD, writing())
    entries = json.loads((place / "artifact.json").read_text()) | {"version": 2}
    del entries["checksum"]
    entries["checksum"] = fingerprint(entries)
    (place / "artifact.json").write_text(json.dumps(entries))
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for use in (
        lambda: find(place, OLD),
        lambda: fetch(place),
        lambda: commit(place, "encoder", NEW, writing(b"others")),
        lambda: storage.discard(place),
    ):
        with pytest.raises(UserError, match="made by a newer version"):
            use()
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """In place of a kill."""


def test_a_discard_that_is_killed_leaves_its_record(place, monkeypatch):
    commit(place, "half", OLD, writing())
    delete_files, prune = artifacts.disk.delete_files, artifacts.copies.prune
    for module, name, delete in (
        (artifacts.disk, "delete_files", delete_files),
        (artifacts.copies, "prune", prune),
    ):

        def once(where, names, delete=delete):
            delete(where, [*names][:-1])
            raise Killed

        monkeypatch.setattr(module, name, once)
    with pytest.raises(Killed):
        storage.discard(place)
    monkeypatch.undo()
    assert find(place, OLD).reason.startswith("damaged")
    assert isinstance(commit(place, "half", NEW, writing()), Artifact), "it is still ours"


def test_a_copy_is_the_same_whoever_made_it(bucket):
    commit(bucket, "model", OLD, writing())
    made = []
    for first in (lambda: fetch(bucket).path, lambda: storage.local_copy(bucket)):
        artifacts.copies.forget(bucket)
        first()
        path = storage.local_copy(bucket)
        made.append(sorted(each.relative_to(path).as_posix() for each in path.rglob("*")))
    assert made[0] == made[1]
