from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification

from bebert_ray.errors import UserError
from bebert_ray.packed import check, packed_model
from bebert_ray.packed.load import find_model
from bebert_ray.storage import Location, commit


@pytest.fixture
def packed(member: Callable[..., BertForSequenceClassification], tmp_path: Path) -> Path:
    """A run directory with a packed model, and nothing else."""
    packed_model([member()], [1.0], ("no", "yes"), ["text"]).save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_model_is_found_by_its_directory_and_by_its_run(packed: Path) -> None:
    assert find_model(str(packed / "model")) == packed / "model"
    assert find_model(str(packed)) == packed / "model"


def test_a_model_in_an_object_store_is_fetched(packed: Path, bucket: Location) -> None:
    def write(draft: Path) -> Mapping[str, Any]:
        shutil.copytree(packed / "model", draft, dirs_exist_ok=True)
        return {}

    commit(bucket / "model", "model", {}, write)
    for text in (str(bucket), str(bucket / "model")):
        found = find_model(text)
        check(found)
        assert (found / "config.json").read_bytes() == (packed / "model/config.json").read_bytes()


def test_what_is_no_model_or_damaged_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a packed model nor a run"):
        find_model(str(tmp_path / "nothing"))
    (packed / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is cut off"):
        find_model(str(packed))
