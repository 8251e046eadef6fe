"""Records: small JSON files that say what they are, of which version, with a checksum.

{..., "format": "bebert-trial", "version": 1, "checksum": sha256 of all else}
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bebert_ray.errors import UserError
from bebert_ray.storage.hashing import fingerprint

if TYPE_CHECKING:  # packed models check their names without pyarrow
    from bebert_ray.storage.location import Location

MOST_BYTES = 1 << 30
"""Size of the longest record that is read."""


def sealed(entries: dict[str, Any], format: str, version: int) -> dict[str, Any]:
    """The entries of a record with its format, version and checksum.

    Raises:
        TypeError, ValueError: they are not JSON.
    """
    whole = entries | {"format": format, "version": version}
    return whole | {"checksum": fingerprint(whole)}


def opened(text: bytes, place: object, format: str, version: int) -> dict[str, Any]:
    """The entries of a record that `sealed` has made and that is as it was written.

    Args:
        text: content of the file.
        place: the file, for messages.
        format: what it must be.
        version: the newest that is known.

    Raises:
        NewerVersion: it is of a newer version.
        UserError: it is damaged or something else.
    """
    try:
        entries = parse_json(text)
        if not isinstance(entries, dict):
            raise ValueError("it holds no JSON object")
        if entries.get("format") != format:
            raise ValueError("it is a record of something else")
        check_version(entries.get("version"), place, version)
        expected = entries.pop("checksum", None)
        if expected != fingerprint(entries):
            raise ValueError("it is not as it was written")
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} is damaged: {str(error)[:150]}") from error
    del entries["format"], entries["version"]
    return entries


class NewerVersion(UserError):
    """A record was made by a newer version of bebert_ray."""


def check_version(found: Any, place: object, known: int) -> None:
    """Refuse what a newer version has made.

    Raises:
        NewerVersion: `found` is above `known`.
        ValueError: it is no version.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ValueError("it has no version")
    if found > known:
        raise NewerVersion(
            f"{place} was made by a newer version of bebert_ray (format {str(found)[:20]}, known "
            f"are those up to {known}); install that version, or choose another directory"
        )


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, too deep or too long.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text)} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None


def check_name(name: Any) -> str:
    """A name in a record, which must stay in the directory of the record.

    Raises:
        ValueError: it is empty, absolute, leads out of the directory or is no name.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise ValueError(f"{str(name)[:60]!r} is no name of a file")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError(f"{name[:60]!r} leads out of the directory")
    return name


def check_inside(directory: Path | Location, name: str) -> None:
    """Refuse a name whose file is elsewhere, by symbolic links.

    Raises:
        ValueError: it is.
    """
    if not isinstance(directory, Path):
        if not directory.is_local:
            return
        directory = directory.local
    if not (directory / name).resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{name[:60]!r} leads out of the directory by a symbolic link")
