"""The configuration of a run: what there is (schema), what is wrong (check), files (load)."""

from bebert_ray.config.check import describe
from bebert_ray.config.load import (
    differing_keys,
    flatten,
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
    "flatten",
    "load_config",
    "parse_config",
    "to_dict",
    "to_yaml",
]
