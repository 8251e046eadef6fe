"""The configuration of a run: `schema` says what there is, `load` reads and writes it."""

from bebert_ray.config.load import (
    describe,
    differing_keys,
    load_config,
    parse_config,
    to_dict,
    to_yaml,
)
from bebert_ray.config.schema import (
    Config,
    DataConfig,
    EnsembleConfig,
    ExportConfig,
    HalfConfig,
    MemberConfig,
    MemberResources,
    ResourcesConfig,
    StageResources,
    TeacherConfig,
    TernaryConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "DataConfig",
    "EnsembleConfig",
    "ExportConfig",
    "HalfConfig",
    "MemberConfig",
    "MemberResources",
    "ResourcesConfig",
    "StageResources",
    "TeacherConfig",
    "TernaryConfig",
    "TrainingConfig",
    "describe",
    "differing_keys",
    "load_config",
    "parse_config",
    "to_dict",
    "to_yaml",
]
