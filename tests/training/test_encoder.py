"""The encoder in the run directory."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bebert_ray.errors import RunError, UserError
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder, load_tokenizer
from bebert_ray.storage import Location
from bebert_ray.training.encoder import fetch_encoder, leave_encoder


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    (copy / "train.jsonl").write_text("{}\n")  # no part of the encoder
    (copy / "optimizer.pt").write_text("large")
    (copy / "model.safetensors").chmod(0o644)  # else it is copied, so that others may read it
    return find_checkpoint(str(copy))


def test_it_is_whole_without_the_checkpoint(checkpoint, tmp_path):
    run = Location.of(tmp_path / "run")
    weights = load_encoder(checkpoint, 2, 0.1).state_dict()
    made = leave_encoder(checkpoint, run)
    assert {"train.jsonl", "optimizer.pt"}.isdisjoint(os.listdir(made.path))
    assert (made.path / "model.safetensors").samefile(checkpoint.path / "model.safetensors")
    shutil.rmtree(checkpoint.path)
    there, source = fetch_encoder(run)
    assert (there.digest, source) == (checkpoint.digest, str(checkpoint.path))
    again = load_encoder(there, 2, 0.1).state_dict()
    assert all(again[name].equal(weights[name]) for name in again if "bert." in name)
    assert load_tokenizer(there)("good film").input_ids[0] == 2  # [CLS]


def test_it_is_left_once_and_anew_if_it_is_damaged(checkpoint, tmp_path):
    run = Location.of(tmp_path / "run")
    made = leave_encoder(checkpoint, run)
    record = (made.path / "artifact.json").stat().st_mtime_ns
    leave_encoder(checkpoint, run)
    assert (made.path / "artifact.json").stat().st_mtime_ns == record
    (made.path / "config.json").unlink()
    with pytest.raises(RunError, match=r"encoder is damaged: config\.json is missing"):
        fetch_encoder(run)
    assert leave_encoder(checkpoint, run).digest == made.digest


def test_links_of_a_hub_cache_are_followed(checkpoint, tmp_path):
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for path in checkpoint.path.iterdir():
        (cache / path.name).symlink_to(path)
    made = leave_encoder(find_checkpoint(str(cache)), Location.of(tmp_path / "run"))
    assert not any(path.is_symlink() for path in made.path.iterdir())


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_the_shards_of_weights_go_along(checkpoint, tmp_path, safe):
    expected = load_encoder(checkpoint, 2, 0.1).state_dict()
    names = shard(checkpoint.path, safe)
    (checkpoint.path / "model.fp16.safetensors").write_text("of another format")
    sharded = find_checkpoint(str(checkpoint.path))
    made = leave_encoder(sharded, Location.of(tmp_path / "run"))
    assert {name for name in os.listdir(made.path) if name.startswith(("model", "pyt"))} == names
    again = load_encoder(fetch_encoder(Location.of(tmp_path / "run"))[0], 2, 0.1).state_dict()
    assert all(again[name].equal(expected[name]) for name in again if "bert." in name)
    first = sharded.digest
    torch_or_safe = sorted(names)[0]
    (checkpoint.path / torch_or_safe).unlink()
    with pytest.raises(UserError, match=rf"1 of 2 shards that .* {torch_or_safe}; download"):
        find_checkpoint(str(checkpoint.path))
    assert first != checkpoint.digest


def shard(directory, safe):
    """Cut the weights in two; returns the names of the files."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    stem, end = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    shards = {f"{stem}-0000{i}-of-00002.{end}": sorted(tensors)[i - 1 :: 2] for i in (1, 2)}
    for name, keys in shards.items():
        part = {key: tensors[key] for key in keys}
        if safe:
            save_file(part, directory / name, {"format": "pt"})
        else:
            torch.save(part, directory / name)
    places = {key: name for name, keys in shards.items() for key in keys}
    index = directory / f"{stem}.{end}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return {*shards, index.name}
