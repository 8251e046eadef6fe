from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertTokenizer


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(tiny_checkpoint)
