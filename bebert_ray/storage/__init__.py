"""Where and how a run lies on disk or in an object store. Nothing else in the package knows.

The names below are imported when they are first used. `storage.disk` and `storage.hashing` can so
be used without pyarrow, which the other modules need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bebert_ray.storage.artifacts import (
        Artifact,
        Miss,
        commit,
        discard,
        discard_below,
        fetch,
        find,
    )
    from bebert_ray.storage.files import (
        check_unlocked,
        exists,
        keep,
        link,
        link_or_copy,
        local_copy,
        lock,
        lock_holder,
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
    "discard",
    "discard_below",
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
    "lock_holder",
    "names",
    "read",
    "remove",
    "sweep",
    "write_atomic",
]

_MODULES = {
    "artifacts": ("Artifact", "Miss", "commit", "discard", "discard_below", "fetch", "find"),
    "hashing": ("fingerprint", "hash_arrays"),
    "location": ("Location",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a public name, and remember the name here (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULE_OF.get(name, 'files')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
