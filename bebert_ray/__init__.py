"""Distributed training, on Ray, of ensembles of binary BERTs.

    import bebert_ray as bb

    results = bb.train("quickstart")                      # a shipped configuration, or a YAML file
    results = bb.train(train=frame, output="runs/mine")   # a DataFrame with columns text and label
    print(results.scores, results.model)
    model = bb.load_model(results.model)

What is imported here is loaded when it is first used: `import bebert_ray` loads neither torch nor
Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bebert_ray.version import __version__ as __version__

if TYPE_CHECKING:
    from bebert_ray.api import predict, sweep, train
    from bebert_ray.config import Config, load_config
    from bebert_ray.packed import load_model
    from bebert_ray.pipeline.results import Results

_HOMES = {
    "train": "bebert_ray.api",
    "sweep": "bebert_ray.api",
    "predict": "bebert_ray.api",
    "Config": "bebert_ray.config",
    "load_config": "bebert_ray.config",
    "load_model": "bebert_ray.packed",
    "Results": "bebert_ray.pipeline.results",
}

__all__ = ["Config", "Results", "load_config", "load_model", "predict", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
