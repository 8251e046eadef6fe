"""Logits of a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bebert_ray.data.batches import collate
from bebert_ray.data.columns import Columns
from bebert_ray.training.losses import inputs_of
from bebert_ray.training.predict import predict

Examples = Callable[..., Columns]
MakeBag = Callable[..., Any]


@pytest.mark.parametrize("batch_size", [1, 5, 16, 1000])
def test_predictions_stand_in_dataset_order(
    bag: MakeBag, examples: Examples, batch_size: int
) -> None:
    model, columns = bag(dropout=0.5).train(), examples(37)
    logits = predict(model, columns, batch_size)
    assert logits.shape == (37, 2) and logits.dtype == np.float32
    for i in range(37):
        alone = inputs_of(collate(columns, np.array([i])))
        expected = model(**alone).logits[0].detach().numpy()
        np.testing.assert_allclose(logits[i], expected, rtol=1e-5, atol=1e-6)
