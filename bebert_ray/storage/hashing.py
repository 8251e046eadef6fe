"""Hashes: of values, of arrays, of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fingerprint(value: Any) -> str:
    """SHA-256, in hex, of a value's canonical JSON: keys sorted, tuples as lists, no spaces.

    Raises:
        TypeError, ValueError: `value` is not JSON, for which NaN and infinity are not numbers.

    Examples:
        >>> fingerprint({"a": 1, "b": (2,)}) == fingerprint({"b": [2], "a": 1})
        True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def hash_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hex, of named arrays: name, dtype, shape and bytes of each, in order of name.

    Raises:
        ValueError: an array holds Python objects, which have no bytes of their own.

    Examples:
        >>> hash_arrays({"x": np.zeros(2)}) == hash_arrays({"x": np.zeros((2, 1))})
        False
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        if array.dtype.hasobject:
            raise ValueError(f"array {name!r} of dtype {array.dtype} cannot be hashed")
        digest.update(canonical([name, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def checksum(path: Path) -> dict[str, Any]:
    """What a file's content is known by: `{"sha256": in hex, "bytes": its length}`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": file.tell()}


def canonical(value: Any) -> str:
    """JSON in which equal values have equal text.

    Examples:
        >>> canonical({"b": (1, 2), "a": None})
        '{"a":null,"b":[1,2]}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
