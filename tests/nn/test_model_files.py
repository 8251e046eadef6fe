"""What may lie in a model's directory in place of its files, and how it is told."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bebert_ray.errors import UserError
from bebert_ray.nn.checkpoint import find_checkpoint
from bebert_ray.scoring.classifier import read_card
from bebert_ray.storage import Location

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"


@pytest.fixture(params=["train", "predict"])
def refused(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path
) -> Callable[..., str]:
    """The message that a directory is refused with, by training or by scoring.

    refused(spoil): spoil changes a copy of the checkpoint.
    """

    def refused(spoil: Callable[[Path], object]) -> str:
        directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
        spoil(directory)
        with pytest.raises(UserError) as caught:
            if request.param == "train":
                find_checkpoint(str(directory))
            else:
                read_card(Location.of(directory))
        message = str(caught.value)
        assert message.startswith(f"{'model:' if request.param == 'train' else '--model'} ")
        assert len(message) < 500 and "\n" not in message and str(directory) in message
        return message

    return refused


def to_bin(directory: Path) -> Path:
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    return directory / "pytorch_model.bin"


def shard(directory: Path) -> Path:
    """Cut the weights in two shards, and return the index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    places = {}
    for i in (1, 2):
        name = f"model-0000{i}-of-00002.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[i - 1 :: 2]}
        save_file(part, directory / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def poison(directory: Path, value: float, dtype: torch.dtype = torch.float32) -> None:
    tensors = load_file(directory / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name].to(dtype)
    tensors[name][3, 5] = value
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", POINTER, "is a pointer of Git LFS .*git lfs pull"),
        ("tokenizer.json", POINTER, "is a pointer of Git LFS"),
        ("config.json", POINTER, "is a pointer of Git LFS"),
        ("model.safetensors", "", "is empty"),
        ("tokenizer.json", "", "is not JSON: it is empty"),
        ("config.json", "", "is not JSON: it is empty"),
        ("model.safetensors", "<!DOCTYPE html>\n<html>", "is a web page"),
        ("config.json", "<html></html>", "is a web page"),
        ("model.safetensors", "what is this?", "is no safetensors file"),
        ("model.safetensors", "\x09\0\0\0\0\0\0\0{no json}", "is no safetensors file"),
        ("config.json", "{'model_type': 'bert'}", "is not JSON: Expecting"),
        ("config.json", "[1]", "holds a list, and no JSON object"),
        ("config.json", '{"hidden_size": 32}', "lacks the key model_type"),
    ],
)
def test_what_is_not_the_file_is_named(
    refused: Callable[..., str], name: str, content: str, message: str
) -> None:
    text = refused(lambda directory: (directory / name).write_text(content))
    assert name in text
    assert re.search(message, text), text


@pytest.mark.parametrize("left", [9, 500, -1, -40])
def test_a_file_that_was_cut_short(refused: Callable[..., str], left: int) -> None:
    def cut(directory: Path) -> None:
        file = directory / "model.safetensors"
        file.write_bytes(file.read_bytes()[:left])

    assert "model.safetensors is cut short, at " in refused(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (POINTER.encode(), "is a pointer of Git LFS"),
        (b"PK\x03\x04 and no end", "is cut short, at "),
        (b"text", "is no file of PyTorch"),
        (b"\x80\x02", "cannot be read|is damaged"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "are never run"),
    ],
)
def test_weights_of_pytorch(refused: Callable[..., str], content: bytes, message: str) -> None:
    text = refused(lambda directory: to_bin(directory).write_bytes(content))
    assert "pytorch_model.bin " in text
    assert re.search(message, text), text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers(
    refused: Callable[..., str], value: float, dtype: torch.dtype
) -> None:
    message = refused(lambda directory: poison(directory, value, dtype))
    assert "model.safetensors holds NaN or infinity: 1 of 2048 numbers of encoder" in message


def test_no_numbers_in_a_shard_and_in_pytorchs_file(refused: Callable[..., str]) -> None:
    def spoil(directory: Path) -> None:
        poison(directory, float("nan"))
        shard(directory)

    assert "-of-00002.safetensors holds NaN or infinity: 1 of 2048" in refused(spoil)


def test_no_numbers_in_pytorchs_file(refused: Callable[..., str]) -> None:
    def spoil(directory: Path) -> None:
        poison(directory, float("nan"))
        to_bin(directory)

    assert "pytorch_model.bin holds NaN or infinity: 1 of 2048" in refused(spoil)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "names no shards"),
        ('{"weight_map": {}}', "names no shards"),
        ('{"weight_map": {"a": 5}}', "names no shards"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "names no shards in its directory"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "1 of 1 shards .* missing: gone.safetensors"),
        (POINTER, "is a pointer of Git LFS"),
    ],
)
def test_an_index_that_leads_nowhere(
    refused: Callable[..., str], content: str, message: str
) -> None:
    text = refused(lambda directory: shard(directory).write_text(content))
    assert "model.safetensors.index.json" in text
    assert re.search(message, text), text


def test_a_shard_that_is_a_pointer(refused: Callable[..., str]) -> None:
    def spoil(directory: Path) -> None:
        shard(directory).with_name("model-00002-of-00002.safetensors").write_text(POINTER)

    assert "model-00002-of-00002.safetensors is a pointer of Git LFS" in refused(spoil)


def test_no_weights_at_all(refused: Callable[..., str]) -> None:
    def spoil(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "tf_model.h5")

    assert "has no weights (model.safetensors or pytorch_model.bin" in refused(spoil)
