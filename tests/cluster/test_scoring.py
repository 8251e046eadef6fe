"""Scoring shared with idle CPUs, on a real Ray of two."""

import os
import sys

import numpy as np
import pytest
import ray
import torch

from bebert_ray.cluster import scoring
from bebert_ray.cluster.resources import Allotment, connected
from bebert_ray.cluster.scoring import SharedScoring
from bebert_ray.config import ResourcesConfig
from bebert_ray.data.columns import Columns
from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
from bebert_ray.nn.split import split_, ternarize_
from bebert_ray.training.predict import predict, predict_batches

pytestmark = pytest.mark.cluster
N, BATCH = 120, 8


@pytest.fixture(scope="module")
def two_cpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected(ResourcesConfig(num_cpus=2)):
            yield


@pytest.fixture
def model(tiny_checkpoint):
    torch.manual_seed(0)
    model = load_encoder(find_checkpoint(str(tiny_checkpoint)), 2, 0.1)
    ternarize_(model, 8)
    split_(model)
    return model


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, N)
    ids = rng.integers(5, 90, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Columns(ids, np.zeros(len(ids), np.int8), offsets, rng.integers(0, 2, N))


@pytest.fixture
def alone(monkeypatch):
    """The shares that this process has worked through; it waits for a helper before the first."""
    shares, asked, asker = [], [], SharedScoring._asker

    def spied(self, *given):
        ask = asker(self, *given)
        return lambda share: asked.append(ask(share)) or asked[-1]

    def spy(model, columns, batches, precision):
        ray.wait(asked, timeout=60)
        shares.append(batches)
        return predict_batches(model, columns, batches, precision)

    monkeypatch.setattr(scoring, "SHARE", 2 * BATCH)
    monkeypatch.setattr(scoring, "predict_batches", spy)
    monkeypatch.setattr(SharedScoring, "_asker", spied)
    return shares


@pytest.mark.usefixtures("two_cpus")
def test_helpers_take_a_part_and_the_logits_are_the_same_to_the_bit(model, columns, alone):
    expected = predict(model, columns, BATCH, "bf16")
    logits = SharedScoring(Allotment(1))(model, columns, BATCH, "bf16")
    assert np.array_equal(logits, expected)
    assert 0 < len(alone) < 8, "eight shares, of which others have done some"


@pytest.mark.usefixtures("two_cpus")
def test_without_idle_cpus_or_for_few_examples_nobody_is_asked(model, columns, alone):
    expected = predict(model, columns, BATCH)
    assert np.array_equal(SharedScoring(Allotment(3))(model, columns, BATCH), expected)
    few = columns.take(np.arange(2 * BATCH))
    assert np.array_equal(
        SharedScoring(Allotment(1))(model, few, BATCH), predict(model, few, BATCH)
    )
    assert not alone


@pytest.mark.usefixtures("two_cpus")
def test_helpers_that_die_are_not_missed(model, columns, alone, monkeypatch):
    def die(*_):
        os._exit(1)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(scoring, "_score", die)
    logits = SharedScoring(Allotment(1))(model, columns, BATCH)
    assert np.array_equal(logits, predict(model, columns, BATCH))
    assert len(alone) == 8
