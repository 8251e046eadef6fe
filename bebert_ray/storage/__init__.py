"""Where and how a run lies on disk or in an object store. Nothing else in the package knows."""

from bebert_ray.storage.artifacts import Artifact, Miss, commit, fetch, find
from bebert_ray.storage.files import (
    check_unlocked,
    exists,
    keep,
    link,
    link_or_copy,
    local_copy,
    lock,
    names,
    read,
    remove,
    sweep,
    write_atomic,
)
from bebert_ray.storage.hashing import fingerprint, hash_arrays
from bebert_ray.storage.location import Location

__all__ = [
    "Artifact",
    "Location",
    "Miss",
    "check_unlocked",
    "commit",
    "exists",
    "fetch",
    "find",
    "fingerprint",
    "hash_arrays",
    "keep",
    "link",
    "link_or_copy",
    "local_copy",
    "lock",
    "names",
    "read",
    "remove",
    "sweep",
    "write_atomic",
]
