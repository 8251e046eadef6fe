from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from bebert_ray.errors import UserError
from bebert_ray.packed import check, packed_model
from bebert_ray.storage.hashing import fingerprint


@pytest.fixture
def packed(member: Callable[..., BertForSequenceClassification], tmp_path: Path) -> Path:
    """A directory with a packed model."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "vocab.txt").write_text("a\nb\n")
    packed_model([member()], [1.0], ("no", "yes"), ["text"]).save_pretrained(directory)
    return directory


def refused(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        check(directory)
    return str(caught.value)


def test_a_whole_model_passes_with_other_files_beside_it(packed: Path) -> None:
    check(packed)
    (packed / "README.md").write_text("a card that somebody edits")
    (packed / "artifact.json").write_text("{}")
    (packed / "notes.txt").write_text("")
    check(packed)


def test_what_lists_a_file_twice_has_the_same_bytes(packed: Path) -> None:
    before = (packed / "packed.json").read_bytes()
    AutoModelForSequenceClassification.from_pretrained(packed).save_pretrained(packed)
    assert (packed / "packed.json").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.txt"])
def test_damaged_files_are_refused(packed: Path, name: str) -> None:
    path = packed / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{name} is cut off" in refused(packed)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    assert f"{name} is not as it was written" in refused(packed)
    path.rename(packed / "other")
    assert f"{name} is missing, or has another name" in refused(packed)
    path.write_bytes(content)
    check(packed)


def test_loading_checks_first(packed: Path) -> None:
    path = packed / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is not as it was written"):
        AutoModelForSequenceClassification.from_pretrained(packed)


def test_newer_and_foreign_formats_are_refused(packed: Path, tmp_path: Path) -> None:
    path = packed / "packed.json"
    entries = json.loads(path.read_text())
    del entries["checksum"]

    def write(**changes: object) -> None:
        changed = entries | changes
        path.write_text(json.dumps(changed | {"checksum": fingerprint(changed)}))

    write(version=2)
    assert "packed format version 2" in refused(packed)
    assert "a newer bebert_ray" in refused(packed)
    write(format="other")
    assert "not a packed model" in refused(packed)
    assert "has no packed.json" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "bebert-packed", "version": "x"}'])
def test_a_damaged_manifest_is_refused(packed: Path, content: str) -> None:
    (packed / "packed.json").write_text(content)
    assert "packed.json is not as it was written" in refused(packed)


def test_a_changed_manifest_is_refused(packed: Path) -> None:
    path = packed / "packed.json"
    path.write_text(path.read_text().replace('"bytes": ', '"bytes": 1'))
    assert "packed.json is not as it was written" in refused(packed)
