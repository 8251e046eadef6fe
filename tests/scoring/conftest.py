"""Tiny classifiers, and files to score."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

Classifier = Callable[..., Path]


@pytest.fixture(scope="session")
def classifier(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Makes a directory with a BERT of random weights whose scores differ, and its tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    def make(*labels: str, text_columns: list[str] | None = None) -> Path:
        directory = tmp_path_factory.mktemp("classifier")
        config = BertConfig.from_pretrained(tiny_checkpoint, initializer_range=0.3)
        config.text_columns = text_columns
        config.id2label = dict(enumerate(labels or ["score"]))
        config.label2id = {label: index for index, label in config.id2label.items()}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = BertForSequenceClassification(config)
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def sentiment(classifier: Classifier) -> Path:
    """A model of two classes that says what it was trained on."""
    return classifier("negative", "positive", text_columns=["text"])


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts are scored in this process; returns the names of those that were."""
    from bebert_ray.scoring import classifier, run, score

    taken: list[str] = []

    def scored(job, parts, workers, here):
        model = classifier.Classifier(job.model, job.batch_size)
        for part in parts:
            taken.append(part.name)
            yield part, score.score_part(job, model, part)

    monkeypatch.setattr(run, "connected", lambda _: nullcontext())
    monkeypatch.setattr(run, "scored", scored)
    return taken
