"""The manifest of a packed model: `packed.json`, the format and a checksum of every file.

    {"format": "bebert-packed", "version": 1, "files": {name: {"sha256": ..., "bytes": ...}},
     "checksum": sha256 of the other entries}

The model card is not listed, so that people may edit it.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from bebert_ray.errors import UserError
from bebert_ray.nn.model_files import refusing
from bebert_ray.storage.disk import is_draft, write_file
from bebert_ray.storage.hashing import checksum, fingerprint
from bebert_ray.storage.records import check_name, parse_json

MANIFEST = "packed.json"
FORMAT = "bebert-packed"
VERSION = 1
CARD = "README.md"
UNLISTED = {MANIFEST, CARD, "artifact.json"}
"""Files that the manifest leaves out; the last is the record of `storage`."""

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
"""Arguments of `from_pretrained` that locate a file on the hub."""


def write_manifest(directory: Path) -> None:
    """List all files that are in the directory now."""
    files = {
        path.name: checksum(path)
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name not in UNLISTED and not is_draft(path.name)
    }
    entries: dict[str, Any] = {"format": FORMAT, "version": VERSION, "files": files}
    entries["checksum"] = fingerprint(entries)
    write_file(directory / MANIFEST, json.dumps(entries, indent=2).encode())


def check(place: str | PathLike[Any], **hub: Any) -> dict[str, Path]:
    """Check that a packed model is whole, and of a format version that this package can read.

    Args:
        place: a directory, or a name on the hub, whose files are fetched if need be.
        hub: as in `from_pretrained`; see `HUB_OPTIONS`.

    Returns:
        The files by name.

    Raises:
        UserError: it is not a packed model, has a newer format version, or a file is missing,
            renamed, truncated or otherwise not as it was written.
    """
    with refusing(f"{place} cannot be read: "):
        return {
            name: _checked(place, name, expected, hub)
            for name, expected in _listed(place, hub).items()
        }


def _checked(
    place: str | PathLike[Any], name: str, expected: dict[str, Any], hub: dict[str, Any]
) -> Path:
    path = _find(place, name, hub)
    if path is None:
        raise UserError(f"{place} is damaged: {name} is missing, or has another name")
    found = checksum(path)
    if found["bytes"] < expected["bytes"]:
        lengths = f"{found['bytes']} of {expected['bytes']} bytes"
        raise UserError(f"{place} is damaged: {name} is cut off, there are {lengths}")
    if found != expected:
        raise UserError(
            f"{place} is damaged: {name} is not as it was written. Export or fetch it again; "
            "if it was changed on purpose, load it from elsewhere and save_pretrained it here"
        )
    return path


def _listed(place: str | PathLike[Any], hub: dict[str, Any]) -> dict[str, Any]:
    """The files of a manifest with their checksums."""
    path = _find(place, MANIFEST, hub)
    if path is None:
        raise UserError(f"{place} is not a packed model: it has no {MANIFEST}")
    try:
        entries = parse_json(path.read_bytes())
        if entries["format"] != FORMAT:
            raise UserError(f"{place} is not a packed model: {MANIFEST} is of something else")
        if entries["version"] > VERSION:
            raise UserError(
                f"{place} was made by a newer version of bebert_ray: it has packed format version "
                f"{str(entries['version'])[:20]}, and this bebert_ray knows those up to {VERSION}; "
                "it takes a newer bebert_ray to read it"
            )
        expected = entries.pop("checksum")
        if expected != fingerprint(entries):
            raise ValueError("the checksum is another")
        files: dict[str, Any] = dict(entries["files"])
        for name, expected in files.items():
            check_name(name)
            int(expected["bytes"])
        return files
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged: {MANIFEST} is not as it was written") from error


def _find(place: str | PathLike[Any], name: str, hub: dict[str, Any]) -> Path | None:
    found = cached_file(
        str(place),
        name,
        _raise_exceptions_for_missing_entries=False,
        **{key: hub[key] for key in HUB_OPTIONS if hub.get(key) is not None},
    )
    return None if found is None else Path(found)
