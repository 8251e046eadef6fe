"""Bits: written W-E-A, and read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.config.bits import Bits

WIDTH = st.integers(1, 32)


@given(st.builds(Bits, WIDTH, WIDTH, WIDTH))
def test_what_is_written_is_read_back(bits):
    assert Bits.parse(str(bits)) == bits


@pytest.mark.parametrize("text", ["", "1-1", "1-1-8-1", "1-1-x", "1--8", "a1-1-8", "1-1-8\n"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="W-E-A"):
        Bits.parse(text)
