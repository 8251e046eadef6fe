"""Tokenizers and models that do not belong together, before anything starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig

from bebert_ray.errors import UserError
from bebert_ray.nn.vocabulary import check_ids, check_special


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def load(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def edit(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def without(directory: Path, token: str) -> None:
    """Take a word out of the vocabulary, and close the gap."""
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text())
    words = [word for word in content["model"]["vocab"] if word != token]
    content["model"]["vocab"] = {word: index for index, word in enumerate(words)}
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] != token]
    file.write_text(json.dumps(content))


def test_what_belongs_together_passes(checkpoint: Path, tiny_config: BertConfig) -> None:
    tokenizer = load(checkpoint)
    check_ids(tokenizer, tiny_config, "model: x", pairs=True)
    check_special(tokenizer, checkpoint)
    tokenizer.add_tokens(["[NAME]"])  # and the table has grown with it
    tiny_config.vocab_size += 1
    check_ids(tokenizer, tiny_config, "model: x", pairs=True)


def test_an_added_token_needs_a_row(checkpoint: Path, tiny_config: BertConfig) -> None:
    tokenizer = load(checkpoint)
    tokenizer.add_tokens(["[NAME]"])
    with pytest.raises(UserError, match=r"'\[NAME\]' with the id 103, and the weights 103: they"):
        check_ids(tokenizer, tiny_config, "model: x", pairs=False)


def test_ids_count_and_not_how_many_there_are(checkpoint: Path, tiny_config: BertConfig) -> None:
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["model"]["vocab"]["film"] = 500
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="103 tokens, 'film' with the id 500, and the weights"):
        check_ids(load(checkpoint), tiny_config, "model: x", pairs=False)


def test_pairs_need_two_types_of_tokens(checkpoint: Path, tiny_config: BertConfig) -> None:
    tiny_config.type_vocab_size = 1
    check_ids(load(checkpoint), tiny_config, "model: x", pairs=False)
    with pytest.raises(UserError, match="the texts are pairs, and type_vocab_size is 1"):
        check_ids(load(checkpoint), tiny_config, "model: x", pairs=True)


@pytest.mark.parametrize("role", ["pad", "unk", "cls", "sep"])
def test_a_special_token_that_is_not_set(checkpoint: Path, role: str) -> None:
    edit(checkpoint / "tokenizer_config.json", **{f"{role}_token": None})
    with pytest.raises(UserError, match=f"has no {role}_token, which BERT needs; set it in"):
        check_special(load(checkpoint), checkpoint)


@pytest.mark.parametrize("token", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_special_token_that_is_in_no_vocabulary(checkpoint: Path, token: str) -> None:
    without(checkpoint, token)
    with pytest.raises(UserError, match=f"has no \\{token[:-1]}\\] in its vocabulary"):
        check_special(load(checkpoint), checkpoint)


@pytest.mark.parametrize("left", [None, "\n"])
def test_a_tokenizer_without_its_files_knows_no_word(
    checkpoint: Path, tiny_config: BertConfig, left: str | None
) -> None:
    (checkpoint / "tokenizer.json").unlink()
    if left:
        (checkpoint / "vocab.txt").write_text(left)
    with pytest.raises(UserError, match="the tokenizer knows no word; its files are missing"):
        check_ids(load(checkpoint), tiny_config, "model: x", pairs=False)


def test_the_members_of_a_packed_ensemble_count(checkpoint: Path, tiny_config: BertConfig) -> None:
    packed = SimpleNamespace(member=tiny_config.to_dict() | {"vocab_size": 20})
    with pytest.raises(UserError, match="and the weights 20"):
        check_ids(load(checkpoint), packed, "model: x", pairs=False)
