"""What becomes of trained members: counted, packed, and known to transformers.

Importing this makes `AutoConfig`, `AutoModelForSequenceClassification` and `pipeline` read packed
models.
"""

from transformers import AutoConfig, AutoModelForSequenceClassification

from bebert_ray.packed.manifest import check
from bebert_ray.packed.model import BebertConfig, BebertForSequenceClassification, packed_model

AutoConfig.register(BebertConfig.model_type, BebertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    BebertConfig, BebertForSequenceClassification, exist_ok=True
)

__all__ = ["BebertConfig", "BebertForSequenceClassification", "check", "packed_model"]
