"""Element-wise functions compiled into one pass over memory, where a C++ compiler is there.

A function of tensors that is marked with `compiled` runs eagerly, operator by operator, until
`use_compiler_(True)`; from then on torch.compile makes one kernel of it. Both compute the same
formula; sums may round differently.

Compiled code is kept in inductor's cache directory, which all processes of a user share. The first
call for a kind of arguments holds a lock there, so that one process compiles and the others load.
It compiles for example arguments of a fixed shape: the code then does not depend on which batch
came first, and a process that takes a training up again computes the same bits.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

SMALLEST = 2**15  # numbers; below, calling compiled code costs about as much as it saves
EXAMPLE_ROWS, EXAMPLE_COLUMNS = 1024, 384  # of the arguments that code is compiled for

F = TypeVar("F", bound=Callable[..., Any])

_enabled = False
_ready: set[Hashable] = set()


def use_compiler_(enabled: bool) -> None:
    """Choose for this process whether `compiled` functions are compiled."""
    global _enabled
    _enabled = enabled


def uses_compiler() -> bool:
    """Whether `compiled` functions are compiled in this process."""
    return _enabled


def find_compiler() -> str | None:
    """The C++ compiler that torch.compile would use here, or None if it cannot work.

    It is `$CXX`, or g++ (on macOS clang++), and needs the header files of Python.
    """
    default = "clang++" if os.uname().sysname == "Darwin" else "g++"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", default)) if headers.exists() else None


def compiled(function: F) -> F:
    """Mark a pure function of tensors as one to compile.

    Its first argument is a tensor, contiguous, of one or two dimensions; other tensors have the
    same shape or none. Numbers among the arguments may vary; `bool` and types are part of the code.
    An input that is small, or in inference mode, takes the eager way.

    Examples:
        >>> @compiled
        ... def halve(x: Tensor) -> Tensor:
        ...     return x / 2
        >>> halve(torch.ones(3))
        tensor([0.5000, 0.5000, 0.5000])
    """
    fast: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal fast
        first = arguments[0]
        if not _enabled or first.numel() < SMALLEST or torch.is_inference_mode_enabled():
            return function(*arguments)
        if fast is None:
            fast = torch.compile(function, dynamic=True, fullgraph=True)
        with _plain_arithmetic(first.device.type):
            kind = _kind(function, arguments)
            if kind not in _ready:
                with _compiler_lock():
                    if not _compiles(fast, arguments):
                        return function(*arguments)
                _ready.add(kind)
            return fast(*arguments)

    return cast(F, call)


def _kind(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Hashable:
    """What compiled code depends on: all but sizes and numbers."""
    threads = torch.get_num_threads()
    return (
        function,
        threads,
        *(
            (each.dtype, each.device, each.dim())
            if isinstance(each, Tensor)
            else each
            if isinstance(each, bool | torch.dtype)
            else type(each)
            for each in arguments
        ),
    )


def _compiles(fast: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Compile for example arguments; if that fails, go on without a compiler, with a warning."""
    try:
        fast(*map(_example, arguments))
    except Exception as error:
        use_compiler_(False)
        reason = str(error).strip().partition("\n")[0][:200]
        warnings.warn(
            f"torch.compile failed ({reason}); this process goes on without it, which is slower "
            "and rounds otherwise; training.compile=off does without from the start",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


def _example(argument: Any) -> Any:
    if not isinstance(argument, Tensor) or argument.dim() == 0:
        return argument
    shape = (EXAMPLE_ROWS, EXAMPLE_COLUMNS) if argument.dim() == 2 else (2**18,)
    return argument.new_ones(shape)


@contextmanager
def _plain_arithmetic(device: str) -> Iterator[None]:
    # Code is compiled once for autocast, which changes nothing here, and once without: do without.
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            yield
    else:
        yield


@contextmanager
def _compiler_lock() -> Iterator[None]:
    name = f"torchinductor_{getuser()}"  # inductor's own default
    default = Path(tempfile.gettempdir()) / name
    directory = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", default))
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "bebert_ray.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
