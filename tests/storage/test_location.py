"""Names of places: what is understood, and what is shown."""

import os
import pickle
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from bebert_ray.errors import UserError
from bebert_ray.storage import Location, copies

S3 = "s3://bucket/a%20run/mrpc?endpoint_override=127.0.0.1:9000&scheme=http"


def test_a_path_is_local_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("runs/mrpc", f"{tmp_path}/runs/mrpc", f"file://{tmp_path}/runs/mrpc"):
        location = Location.parse(text)
        assert location.is_local
        assert location.local == tmp_path / "runs" / "mrpc"
        assert str(location) == str(tmp_path / "runs" / "mrpc")
    assert Location.of(Path("runs")) == Location.parse("runs")
    assert Location.of(location) is location


def test_a_uri_is_remote():
    location = Location.parse(S3)
    assert isinstance(location.filesystem, S3FileSystem)
    assert (location.path, location.name) == ("bucket/a run/mrpc", "mrpc")
    assert str(location) == S3
    assert str(Location.parse(S3.replace("?", "/?"))) == S3
    assert not location.is_local
    with pytest.raises(RuntimeError, match="not on the local disk"):
        _ = location.local


@pytest.mark.parametrize("text", ["/runs/a run", S3])
def test_names_below_and_above(text):
    run = Location.parse(text)
    member = run / "members/000 b"
    assert member == run / "members" / "000 b"
    assert (member.name, member.parent.name, member.parent.parent) == ("000 b", "members", run)
    assert member.path == run.path + "/members/000 b"
    assert Location.parse(str(member)) == member
    assert Location.parse(str(member)).path == member.path


@pytest.mark.parametrize("text", ["/runs/mrpc", S3])
def test_a_location_travels_and_is_a_key(text):
    location = Location.parse(text)
    copy = pickle.loads(pickle.dumps(location))
    assert (copy, copy.path, copy.filesystem) == (location, location.path, location.filesystem)
    assert len({location, copy, location / "a", copy / "a", location / "b"}) == 3


def test_the_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert Location.parse("~/runs/mrpc").path == "/home/me/runs/mrpc"
    assert Location.parse("./~runs").name == "~runs"
    assert Location.parse("s3://bucket/~runs?region=us-east-1").path == "bucket/~runs"


def test_without_a_home_directory_paths_do_and_the_cache_is_asked_for(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no HOME, and no such user
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Location.parse("/runs/mrpc").path == "/runs/mrpc"
    with pytest.raises(UserError, match=r"home directory of '~/\.cache' is not known; set HOME"):
        copies.home(Location.parse(S3))


def test_a_working_directory_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/odd\xff"))
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(UserError, match="is not UTF-8 text; rename it"):
        Location.parse("runs/mrpc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://bucket/exp#3", "write %23 for #"),
        ("s3://bucket/exp #3", "write %23 for #"),
        ("file:///runs/exp#3", "write %23 for #"),
        ("file:///runs/exp?3", "%3F for"),
        ("s3://bucket/exp\n3", "control characters"),
        ("/runs/exp\udcff", "is not UTF-8 text"),
        (" ", "a path or a URI is empty"),
        ("~nobody-here/run", "home directory of '~nobody-here/run' is not known"),
        ("gopher://host/run", "gopher://host/run cannot be used: .*such as s3://bucket/run"),
        ("s3://[bucket", "cannot be used"),
        ("s3://", "names no bucket"),
        ("s3:///run", "Missing bucket"),
        ("s3://bucket/run?sheme=http", "sheme"),
        ("s3://bucket/a run", "cannot be used"),
        ("s3://key:secret@bucket/run", "leave the password out"),
    ],
)
def test_a_uri_that_cannot_be_used_is_an_error_for_people(text, message):
    with pytest.raises(UserError, match=message) as refusal:
        Location.parse(text)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
