"""Artifacts on a real disk, with real kills: what `find` says after anything that can happen."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError

from bebert_ray import storage
from bebert_ray.errors import UserError
from bebert_ray.storage import Artifact, Location, Miss, commit, find, fingerprint, hash_arrays

OLD = {"seed": 1, "data": {"path": None, "lengths": [8, 16]}}
NEW = {"seed": 2, "data": {"path": None, "lengths": [8, 16]}}


def writing(content=b"weights"):
    def write(directory):
        (directory / "model.safetensors").write_bytes(content)
        (directory / "tokenizer").mkdir()
        (directory / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
        return {"accuracy": 0.8}

    return write


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def reason(path, inputs=OLD):
    found = find(path, inputs)
    assert isinstance(found, Miss)
    return found.reason


# --- hashes ---


def test_fingerprint_is_of_the_value_and_not_of_its_spelling():
    assert fingerprint({"b": (1, 2), "a": 5e-5}) == fingerprint({"a": 0.00005, "b": [1, 2]})
    different = [{}, [], None, 0, "0", 0.5, {"a": 1}, {"a": "1"}, {"a": {"b": 1}}, {"a.b": 1}]
    assert len({fingerprint(value) for value in different}) == len(different)
    assert len(fingerprint({})) == 64
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"loss": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"path": object()})


def test_hash_arrays_sees_name_dtype_shape_and_bytes():
    array = np.arange(6, dtype=np.int32)
    variants = [
        {"a": array},
        {"b": array},
        {"a": array.astype(np.int64)},
        {"a": array.astype(np.uint32)},
        {"a": array.reshape(2, 3)},
        {"a": array[::-1]},
        {"a": array, "b": array[:0]},
        {"a": array, "b": array[:0].astype(float)},
        {"a": np.float32(1.5).reshape(())},
        {"a": np.array(["yes", "no"])},
        {},
    ]
    assert len({hash_arrays(arrays) for arrays in variants}) == len(variants)


def test_hash_arrays_does_not_see_order_or_layout():
    a, b = np.arange(6.0).reshape(2, 3), np.ones(2)
    assert hash_arrays({"a": a, "b": b}) == hash_arrays({"b": b, "a": a.copy(order="F")})
    with pytest.raises(ValueError, match="'a'"):
        hash_arrays({"a": np.array([None])})


# --- commit and find ---


def test_what_is_committed_is_found(tmp_path):
    path = tmp_path / "run" / "teacher"
    assert reason(path) == "absent"
    committed = commit(path, "teacher", OLD, writing())
    assert find(path, OLD) == committed
    assert committed == Artifact(
        path, "teacher", OLD, {"accuracy": 0.8}, committed.digest, Location.of(path)
    )
    assert names(tmp_path / "run") == ["teacher"]
    record = json.loads((path / "artifact.json").read_text())
    assert record["fingerprint"] == fingerprint(OLD)
    assert sorted(record["files"]) == ["model.safetensors", "tokenizer/vocab.txt"]
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


def test_a_new_artifact_takes_the_place_of_the_old(tmp_path):
    commit(tmp_path / "a", "half", OLD, writing())
    commit(tmp_path / "a", "half", NEW, writing(b"new"))
    assert reason(tmp_path / "a") == "inputs changed: seed"
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/vocab.txt"])
def test_every_kind_of_damage_is_seen_and_mended_by_the_next_commit(tmp_path, name):
    path = tmp_path / "a"
    commit(path, "half", OLD, writing())
    content = (path / name).read_bytes()
    for damaged in (content[:-1], content + b"\0", bytes([content[0] ^ 1]) + content[1:], b""):
        (path / name).write_bytes(damaged)
        assert reason(path) == f"damaged: {name} is not as it was written"
    (path / name).unlink()
    assert reason(path) == f"damaged: {name} is missing"
    commit(path, "half", OLD, writing())
    assert isinstance(find(path, OLD), Artifact)


@pytest.mark.parametrize(
    "record", ["", "{", "[]", "null", "7", "{}", '{"files": 1}', '{"files": "ab"}', "\udcff"]
)
def test_a_damaged_record_is_seen(tmp_path, record):
    path = tmp_path / "a"
    commit(path, "half", OLD, writing())
    (path / "artifact.json").write_text(record, errors="surrogateescape")
    assert reason(path) == "damaged: artifact.json is not as it was written"
    (path / "artifact.json").unlink()
    assert reason(path) == "absent"


def test_what_is_no_artifact_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match=f"{name} is not an artifact"):
            commit(tmp_path / name, "half", OLD, lambda _: pytest.fail("asked to write"))
    assert names(tmp_path) == ["file", "thesis"]
    (tmp_path / "thesis" / "chapter1.tex").unlink()
    commit(tmp_path / "thesis", "half", OLD, writing())  # an empty directory is nobody's loss


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

        sys.addaudithook(count)
        try:
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


# --- single files and the lock ---


def test_write_atomic_writes_text_and_bytes(tmp_path):
    path = tmp_path / "run" / "results.json"
    storage.write_atomic(path, "größer")
    assert path.read_bytes() == "größer".encode()
    storage.write_atomic(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert names(tmp_path / "run") == ["results.json"]


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    storage.write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*results\.json: No space left on device"):
        storage.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["results.json"]


def test_a_run_directory_is_for_one_process_at_a_time(tmp_path):
    holder = (
        "import sys, pathlib\nfrom bebert_ray.storage import lock\n"
        "with lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    input()"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=rf"run is in use by process {other.pid} on \w"),
            storage.lock(tmp_path / "run"),
        ):
            pass
        other.kill()
    with storage.lock(tmp_path / "run"):  # the end of a process, however it came, frees the lock
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_is_freed_by_an_error_in_the_block(tmp_path):
    with pytest.raises(OSError, match="mine"), storage.lock(tmp_path):
        raise OSError("mine")
    with storage.lock(tmp_path):
        pass


def test_the_lock_names_no_one_while_the_holder_has_not_signed(tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"), storage.lock(tmp_path):
            pass
