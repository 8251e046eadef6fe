"""Hashes: equal for equal things, different for different ones."""

import numpy as np
import pytest

from bebert_ray.storage import fingerprint, hash_arrays


def test_fingerprint_is_of_the_value_and_not_of_its_spelling():
    assert fingerprint({"b": (1, 2), "a": 5e-5}) == fingerprint({"a": 0.00005, "b": [1, 2]})
    different = [{}, [], None, 0, "0", 0.5, {"a": 1}, {"a": "1"}, {"a": {"b": 1}}, {"a.b": 1}]
    assert len({fingerprint(value) for value in different}) == len(different)
    assert len(fingerprint({})) == 64
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"loss": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"path": object()})


def test_hash_arrays_sees_name_dtype_shape_and_bytes():
    array = np.arange(6, dtype=np.int32)
    variants = [
        {"a": array},
        {"b": array},
        {"a": array.astype(np.int64)},
        {"a": array.astype(np.uint32)},
        {"a": array.reshape(2, 3)},
        {"a": array[::-1]},
        {"a": array, "b": array[:0]},
        {"a": array, "b": array[:0].astype(float)},
        {"a": np.float32(1.5).reshape(())},
        {"a": np.array(["yes", "no"])},
        {},
    ]
    assert len({hash_arrays(arrays) for arrays in variants}) == len(variants)


def test_hash_arrays_does_not_see_order_or_layout():
    a, b = np.arange(6.0).reshape(2, 3), np.ones(2)
    assert hash_arrays({"a": a, "b": b}) == hash_arrays({"b": b, "a": a.copy(order="F")})
    with pytest.raises(ValueError, match="'a'"):
        hash_arrays({"a": np.array([None])})
