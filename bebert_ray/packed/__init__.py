"""Packed ensembles of binary BERTs: one bit a weight, loaded and run by transformers.

Importing this registers the format with `AutoConfig`, `AutoModelForSequenceClassification` and
`pipeline`. Loading and running a model takes torch, transformers, safetensors and numpy alone.
"""

from transformers import AutoConfig, AutoModelForSequenceClassification

from bebert_ray.packed.config import BebertConfig
from bebert_ray.packed.load import load_model
from bebert_ray.packed.manifest import check
from bebert_ray.packed.model import BebertForSequenceClassification, packed_model

AutoConfig.register(BebertConfig.model_type, BebertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    BebertConfig, BebertForSequenceClassification, exist_ok=True
)

__all__ = [
    "BebertConfig",
    "BebertForSequenceClassification",
    "check",
    "load_model",
    "packed_model",
]
