"""The configuration of a run, as it is kept with the run."""

import hashlib

import pytest

from bebert_ray.config import load_config
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import keep_config, kept_config
from bebert_ray.storage import Location

CONFIG = load_config(None, ["task=mrpc", "seed=7", "data.text_columns=null"])


@pytest.fixture
def run(tmp_path):
    return Location.of(tmp_path / "run")


def test_what_is_kept_comes_back(run):
    with pytest.raises(FileNotFoundError):
        kept_config(run)
    keep_config(CONFIG, run)
    assert kept_config(run) == load_config(run.local / "config.yaml") == CONFIG


def test_anyone_can_check_the_checksum(run):
    keep_config(CONFIG, run)
    head, _, body = (run.local / "config.yaml").read_bytes().partition(b"\n")
    assert head.decode().endswith(f" {hashlib.sha256(body).hexdigest()}")


def test_no_flipped_bit_and_no_truncation_goes_unnoticed(run):
    keep_config(CONFIG, run)
    path = run.local / "config.yaml"
    content = path.read_bytes()
    flipped = [
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        for at in range(0, len(content), 3)
    ]
    for damaged in (*flipped, *(content[:length] for length in range(0, len(content), 5))):
        path.write_bytes(damaged)
        try:
            assert kept_config(run) == CONFIG  # the damage is in the words before the checksum
            assert damaged[200:] == content[200:]
        except UserError as error:
            assert str(error).startswith(f"{path} is damaged: ")


def test_one_that_a_person_has_written_will_do(run):
    run.local.mkdir()
    (run.local / "config.yaml").write_text("task: mrpc\nseed: 7\n")
    assert kept_config(run) == CONFIG
