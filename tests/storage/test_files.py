"""Single files in all kinds of places, and the lock."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from bebert_ray import storage
from bebert_ray.errors import UserError
from bebert_ray.storage import Location


def test_what_is_written_is_read_and_listed(place):
    assert not storage.exists(place)
    assert storage.names(place) == set()
    with pytest.raises(FileNotFoundError):
        storage.read(place / "results.json")
    storage.write_atomic(place / "results.json", "größer")
    assert storage.read(place / "results.json") == "größer".encode()
    storage.write_atomic(place / "results.json", b"\xff")
    storage.write_atomic(place / "weights" / "000.npy.gz", b"as it is")
    assert storage.read(place / "results.json") == b"\xff"
    assert storage.read(place / "weights" / "000.npy.gz") == b"as it is"
    assert storage.names(place) == {"results.json", "weights"}
    assert storage.exists(place)
    assert storage.exists(place / "weights")
    assert storage.exists(place / "results.json")
    assert not storage.exists(place / "results")


def test_what_is_removed_is_gone(place):
    for name in ("results.json", "members/000/a", "members/001/b", "members2"):
        storage.write_atomic(place / name, name)
    for name in ("results.json", "members", "absent", "absent/too"):
        storage.remove(place / name)
        assert not storage.exists(place / name)
    assert storage.names(place) == {"members2"}
    storage.remove(place)
    assert storage.names(place) == set()


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    storage.write_atomic(tmp_path / "scratch" / "a", "kept")
    (tmp_path / "run").symlink_to(tmp_path / "scratch")
    storage.remove(tmp_path / "run")
    assert storage.names(tmp_path) == {"scratch"}
    assert storage.read(tmp_path / "scratch" / "a") == b"kept"


def test_a_path_may_stand_for_its_location(tmp_path):
    storage.write_atomic(tmp_path / "a", "x")
    assert storage.read(tmp_path / "a") == b"x"
    assert storage.names(tmp_path) == {"a"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "results.json"
    storage.write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"cannot write .*results\.json: No space left on device"):
        storage.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_is_of_another_kind_is_an_error_for_people(tmp_path):
    (tmp_path / "file").touch()
    for action in (
        lambda: storage.names(tmp_path / "file"),
        lambda: storage.read(tmp_path),
        lambda: storage.write_atomic(tmp_path / "file" / "a", ""),
        lambda: storage.write_atomic(tmp_path, ""),
    ):
        with pytest.raises(UserError, match="choose another output directory"):
            action()


def test_a_store_that_fails_is_an_error_for_people(bucket, s3):
    elsewhere = Location.parse(str(bucket).replace("runs/mrpc", "nobodys/run"))
    with pytest.raises(UserError, match=r"cannot write s3://nobodys/run/a\?.*NO_SUCH_BUCKET"):
        storage.write_atomic(elsewhere / "a", "")
    with pytest.raises(UserError, match="Check the address, the credentials and the network"):
        storage.commit(elsewhere / "a", "half", {}, lambda _: {})


# --- drafts ---


def test_sweep_deletes_drafts_and_nothing_else(tmp_path):
    draft = f".a.{32 * 'f'}.tmp"
    kept = {"a", "a.tmp", f"a.{32 * 'f'}.tmp", f".a.{32 * 'x'}.tmp", ".lock", f".{32 * 'f'}.tmp"}
    for directory in (tmp_path, tmp_path / "members" / "000"):
        for name in (*kept, draft, f".b{draft}/deep/{draft}"):
            storage.write_atomic(directory / name, "")
    assert storage.names(tmp_path) == kept | {"members"}  # drafts are nobody's business
    storage.sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == kept | {"members"}
    assert set(os.listdir(tmp_path / "members" / "000")) == kept
    storage.sweep(tmp_path / "absent")


# --- the lock ---


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


def test_a_look_at_the_lock_is_waited_for(tmp_path):
    with storage.lock(tmp_path):
        pass
    file = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)  # as `lock_holder` does, for an instant
    threading.Timer(0.1, os.close, [file]).start()
    with storage.lock(tmp_path):
        pass


def test_what_is_remote_has_no_lock(bucket, mount):
    for place in (bucket, mount):
        with storage.lock(place), storage.lock(place):
            assert not storage.exists(place)


def test_who_is_patient_gets_the_lock_once_it_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from bebert_ray import storage\n"
        "with storage.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(3)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by process"), storage.lock(tmp_path):
            pass
        with storage.lock(tmp_path, patience=60):
            pass


@pytest.fixture
def artifact(tmp_path):
    def write(draft):
        (draft / "deep").mkdir()
        (draft / "deep" / "model").write_bytes(b"weights")
        return {"score": 0.5}

    return storage.commit(tmp_path / "run" / "half", "half", {"seed": 1}, write)


def test_an_artifact_can_be_at_two_places_and_takes_room_once(artifact, tmp_path):
    second = tmp_path / "other" / "half"
    storage.link(artifact.path, second)
    found = storage.find(second, {"seed": 1})
    assert (found.digest, found.facts) == (artifact.digest, artifact.facts)
    assert os.path.samefile(artifact.path / "deep" / "model", second / "deep" / "model")


def test_where_there_are_no_links_files_are_copied(artifact, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage.link(artifact.path, tmp_path / "other")
    assert storage.fetch(tmp_path / "other").digest == artifact.digest
    assert not os.path.samefile(artifact.path / "artifact.json", tmp_path / "other/artifact.json")


def test_half_an_artifact_is_never_linked(artifact, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"cannot write .*other.*No space left"):
        storage.link(artifact.path, tmp_path / "other")
    assert storage.names(tmp_path) == {"run"}
