import threading
import time

import datasets
import huggingface_hub
import pytest

from bebert_ray.data.hub import load_hub
from bebert_ray.errors import UserError


class Session:
    """Answers the probe, or does what it is told to instead."""

    def __init__(self, act=lambda: None):
        self.act = act

    def head(self, url, timeout):
        return self.act() or "an answer"


def fail():
    raise ConnectionError("no route")


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)


def hub_copy(monkeypatch, *splits, **columns):
    """Stand in for the hub; returns the offline flags it was asked under."""
    seen = []

    def load_dataset(repository, name):
        assert repository == "nyu-mll/glue"
        seen.append(datasets.config.HF_HUB_OFFLINE)
        return {split: datasets.Dataset.from_dict(columns) for split in splits}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return seen


def test_columns_become_texts_and_labels(online, monkeypatch):
    splits = ("train", "validation_matched", "validation_mismatched")
    seen = hub_copy(monkeypatch, *splits, premise=["A", "B"], hypothesis=["C", "D"], label=[2, 0])
    corpus = load_hub("mnli")
    assert list(corpus.dev) == ["dev_matched", "dev_mismatched"]
    for split in (corpus.train, *corpus.dev.values()):
        assert split.texts == (["A", "B"], ["C", "D"])
        assert split.labels.tolist() == [2, 0]
        assert split.labels.dtype == "int64"
    assert seen == [False]


def test_scores(online, monkeypatch):
    splits = ("train", "validation")
    hub_copy(monkeypatch, *splits, sentence1=["A"], sentence2=["B"], label=[3.8])
    assert load_hub("stsb").train.labels.dtype == "float32"


@pytest.mark.parametrize("way", ["refuses", "hangs"])
def test_a_hub_out_of_reach_leaves_the_cache(online, monkeypatch, way):
    release = threading.Event()
    act = fail if way == "refuses" else release.wait
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: Session(act))
    monkeypatch.setattr("bebert_ray.hub.PROBE_SECONDS", 0.2)
    seen = hub_copy(monkeypatch, "train", "validation", sentence=["A"], label=[1])
    start = time.perf_counter()
    assert len(load_hub("sst2").train) == 1
    assert time.perf_counter() - start < 2
    release.set()
    assert seen == [True]
    assert datasets.config.HF_HUB_OFFLINE is False  # as it was before


def test_offline_and_not_in_the_cache_fails_fast(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    start = time.perf_counter()
    with pytest.raises(
        UserError, match=r"cannot be reached.*not in the cache.*data\.path.*MRPC/tr"
    ):
        load_hub("mrpc")
    assert time.perf_counter() - start < 2


def test_a_download_that_breaks_off(online, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: fail())
    with pytest.raises(UserError, match=r"failed to load: no route.*data\.path"):
        load_hub("rte")
