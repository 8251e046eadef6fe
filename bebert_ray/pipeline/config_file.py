"""The configuration in a run directory: `config.yaml`, with a checksum in its first line."""

from __future__ import annotations

import hashlib

from bebert_ray.config.load import parse_config, to_yaml
from bebert_ray.config.schema import Config
from bebert_ray.errors import UserError
from bebert_ray.pipeline.layout import CONFIG
from bebert_ray.storage import Location, read, write_atomic
from bebert_ray.storage.records import NewerVersion

HEAD = "# The settings of this run. SHA-256 of the lines below: "


def keep_config(config: Config, run: Location) -> None:
    """Write the configuration into the run directory; `load_config` reads it too.

    Raises:
        UserError: it cannot be written.
    """
    text = to_yaml(config)
    write_atomic(run / CONFIG, f"{HEAD}{_checksum(text)}\n{text}")


def kept_config(run: Location) -> Config:
    """The configuration in a run directory; a file that a person has written has no checksum.

    Raises:
        FileNotFoundError: there is none.
        NewerVersion: it is whole, but a newer version has made it.
        UserError: it is damaged, or cannot be read.
    """
    place = run / CONFIG
    content = read(place)
    try:
        text = content.decode("utf-8-sig")
        head, _, body = text.partition("\n")
        whole = head == HEAD + _checksum(body)
        if head.startswith(HEAD) and not whole:
            raise ValueError("it is not as it was written")
    except ValueError as error:
        raise UserError(f"{place} is damaged: {error}") from error
    try:
        return parse_config(text, CONFIG)
    except UserError as error:
        if whole:
            raise NewerVersion(
                f"{place} was made by a newer version of bebert_ray, whose settings this one does "
                f"not know; install that version, or choose another directory ({error})"[:500]
            ) from error
        raise UserError(f"{place} is damaged: {error}"[:500]) from error


def is_kept(run: Location) -> bool:
    """Whether `config.yaml` of a directory begins as `keep_config` writes it, whole or damaged."""
    try:
        return read(run / CONFIG).startswith(HEAD.encode())
    except FileNotFoundError:
        return False


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
