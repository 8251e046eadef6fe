"""The files of a model's directory: found and checked before anything is built from them.

A download that was cut short, a pointer in place of a file, or weights with NaN in them: each is
told by its name, before a library fails over it in words of its own.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bebert_ray.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files with weights; each may be cut into shards, which `NAME.index.json` lists."""
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json"),
    *("added_tokens.json", "special_tokens_map.json", "*.model"),
)

_LFS = b"version https://git-lfs"
_SAFETENSORS_HEADER = 8  # bytes, which hold the length of the header


MOST = {
    "num_hidden_layers": 1000,
    "num_attention_heads": 100_000,
    "num_labels": 1_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "type_vocab_size": 100_000_000,
    "vocab_size": 100_000_000,
}
"""Sizes in a configuration, and the largest of each that is taken: the time to build a model, or
its list of labels, depends on them before a weight is read."""

_MOST_MESSAGE = 500  # characters


@contextmanager
def refusing(fault: str) -> Iterator[None]:
    """Tell whatever a library raises over files from elsewhere in one message.

    Args:
        fault: what the message begins with.

    Raises:
        UserError: in place of any exception but those that stop the process.

    Examples:
        >>> with refusing("model: "):
        ...     int("x")
        Traceback (most recent call last):
        bebert_ray.errors.UserError: model: ValueError: invalid literal for int() with base 10: 'x'
    """
    try:
        yield
    except UserError as error:
        if len(str(error)) > _MOST_MESSAGE:
            raise UserError(f"{str(error)[: _MOST_MESSAGE - 1]}…") from error
        raise
    except BaseException as error:
        # A panic in Rust code (tokenizers, safetensors) is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error)[:2000].split())[:200]
        kind = type(error).__name__
        raise UserError(f"{fault[:250]}{kind}{reason and ': '}{reason}") from error


def check_sizes(settings: dict[str, Any], fault: str) -> None:
    """Refuse sizes in a configuration that are no sizes, or too large to build; see `MOST`.

    Raises:
        UserError: one is; the message names it.
    """
    for name, most in MOST.items():
        size = settings.get(name)
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= most:
            small = isinstance(size, int) and abs(size) < 10**300  # what a float holds
            shown = f"{size:.3g}" if small else repr(size)[:40]
            raise UserError(f"{fault}{name} is {shown}, not a whole number from 0 to {most}")


def weight_files(directory: Path, fault: str) -> list[Path]:
    """The files with the weights of a model, whole as far as their sizes and heads tell.

    Those that transformers takes: safetensors before PyTorch's own, one file before shards.

    Args:
        directory: of the model.
        fault: what messages begin with.

    Returns:
        The file; or the index, and then the shards by name; or nothing, if there are none.

    Raises:
        UserError: a file is missing, empty, cut short, a pointer of Git LFS or a
            web page in place of the file, or an index that names no shards. The message names it.
    """
    for name in WEIGHTS:
        file, index = directory / name, directory / f"{name}.index.json"
        if file.exists() or file.is_symlink():
            check_file(file, fault)
            return [file]
        if index.exists():
            shards = _shards(index, fault)
            for shard in shards:
                check_file(shard, fault)
            return [index, *shards]
    return []


def check_file(file: Path, fault: str) -> None:
    """Refuse a file that is not what its name says; see `weight_files`."""
    damage = _damage(file)
    if damage:
        raise UserError(f"{fault}{file.name} {damage}")


def read_json(file: Path, fault: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: it is missing, or no such file; see `weight_files`.
    """
    damage = _damage(file)
    try:
        if damage:
            raise UserError(f"{fault}{file} {damage}")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UserError(f"{fault}{file} is not JSON: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{fault}{file} holds a {type(content).__name__}, and no JSON object")
    return content


def check_finite(files: list[Path], fault: str) -> None:
    """Refuse weights that are not numbers.

    Args:
        files: as `weight_files` gives them.
        fault: what the message begins with.

    Raises:
        UserError: a tensor holds NaN or infinity, or a file cannot be read. The message names both.
    """
    for file in files:
        if file.suffix == ".json":
            continue
        for name, tensor in _tensors(file, fault):
            if not tensor.is_floating_point():
                continue
            wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 has no test
            bad = int((~torch.isfinite(wide)).sum())
            if bad:
                raise UserError(
                    f"{fault}{file.name} holds NaN or infinity: {bad} of {tensor.numel()} numbers "
                    f"of {name[:100]}; take a checkpoint from before the training diverged"
                )


def _damage(file: Path) -> str | None:
    """What is wrong with a file, or None."""
    if not file.is_file():
        return "is missing" if not file.exists() else "is no file"
    size = file.stat().st_size
    if size == 0:
        return f"is {'not JSON: it is ' if file.suffix == '.json' else ''}empty; download it again"
    with file.open("rb") as stream:
        head = stream.read(64)
        if head.startswith(_LFS):
            return "is a pointer of Git LFS and not the file itself; run `git lfs pull` there"
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page and not the file itself; download the raw file"
        if file.suffix == ".safetensors":
            return _safetensors_damage(head, size, stream)
    if file.suffix == ".bin":
        if head.startswith(b"PK\x03\x04"):
            if not zipfile.is_zipfile(file):
                return f"is cut short, at {size:,} bytes; download it again"
        elif not head.startswith(b"\x80"):
            return "is no file of PyTorch"
    return None


def _safetensors_damage(head: bytes, size: int, stream: Any) -> str | None:
    length = int.from_bytes(head[:_SAFETENSORS_HEADER], "little")
    if size < _SAFETENSORS_HEADER or head[8:9] != b"{":
        return "is no safetensors file"
    stream.seek(_SAFETENSORS_HEADER)
    try:
        if length + _SAFETENSORS_HEADER > size:
            raise ValueError
        entries = json.loads(stream.read(length))
        ends = [
            int(entry["data_offsets"][1]) for name, entry in entries.items() if name[:2] != "__"
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        if length + _SAFETENSORS_HEADER > size:
            return f"is cut short, at {size:,} bytes; download it again"
        return "is no safetensors file"
    whole = _SAFETENSORS_HEADER + length + max(ends, default=0)
    if size < whole:
        return f"is cut short, at {size:,} of {whole:,} bytes; download it again"
    return None


def _shards(index: Path, fault: str) -> list[Path]:
    shards: Any = read_json(index, fault).get("weight_map")
    names = sorted(set(shards.values())) if _is_map(shards) else []
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"{fault}{index.name} names no shards in its directory (weight_map)")
    files = [index.with_name(name) for name in names]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{fault}{len(missing)} of {len(files)} shards that {index.name} names are missing: "
            f"{', '.join(missing[:3])[:150]}{more}; download them"
        )
    return files


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _tensors(file: Path, fault: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file by name, one after another."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                    yield name, opened.get_tensor(name)
            return
        mapped = zipfile.is_zipfile(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{fault}{file.name} holds Python objects beside tensors, or is damaged; such objects "
            "are never run. Save the model again with save_pretrained, as safetensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0][:150]
        raise UserError(f"{fault}{file.name} cannot be read: {reason}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{fault}{file.name} holds a {type(loaded).__name__}, and no tensors")
    yield from ((name, value) for name, value in loaded.items() if torch.is_tensor(value))
