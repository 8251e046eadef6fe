"""What is measured, not how fast it is."""

from pathlib import Path

import pytest
import torch
from measure.infer import FLIPPED, _batch, flip_
from measure.untrained import untrained
from transformers import AutoConfig


@pytest.mark.parametrize("bits", ["1-1-4", "1-1-1"])
def test_members_have_bits_of_their_own(bits: str, tiny_checkpoint: Path) -> None:
    """An engine would compute equal members once."""
    words = AutoConfig.from_pretrained(tiny_checkpoint).vocab_size
    signs = []
    for seed in range(2):
        member = untrained(str(tiny_checkpoint), bits, _batch(2, 8, words), 2)
        flip_(member, seed)
        layers = [each for each in member.modules() if hasattr(each, "binary_weights")]
        tables = [half for layer in layers for half, _ in layer.binary_weights()]
        signs.append(torch.cat([table.flatten() for table in tables]))
    apart = (signs[0] != signs[1]).float().mean()
    assert FLIPPED < apart < 4 * FLIPPED
