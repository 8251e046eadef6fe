"""Models, loaded from a directory, and what they make of texts."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bebert_ray.errors import UserError
from bebert_ray.predict.classifier import Card, Classifier, read_card
from bebert_ray.storage import Location, write_atomic

TEXTS = [
    "the film was good",
    "bad",
    "a plot that is not but of it and is the story",
    ".",
    "good " * 99,
]


def one_by_one(directory, *columns):
    """Logits without padding."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        return torch.cat(
            [
                model(**tokenizer(*row, truncation=True, max_length=64, return_tensors="pt")).logits
                for row in zip(*columns, strict=True)
            ]
        ).double()


def test_scores_are_probabilities_in_the_order_of_the_texts(sentiment):
    scores = Classifier(Location.of(sentiment), batch_size=2).score([TEXTS])
    expected = one_by_one(sentiment, TEXTS).softmax(1).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores[:, 0]) > 0.01  # or the order would show nothing


def test_pairs_are_scored_as_pairs(classifier):
    model = classifier("no", "yes", "maybe")
    pairs = (TEXTS, TEXTS[::-1])
    scores = Classifier(Location.of(model), batch_size=2).score(pairs)
    np.testing.assert_allclose(scores, one_by_one(model, *pairs).softmax(1).numpy(), atol=1e-5)


def test_regression_gives_the_value_itself(classifier):
    model = classifier()
    scores = Classifier(Location.of(model), batch_size=2).score([TEXTS])
    np.testing.assert_allclose(scores, one_by_one(model, TEXTS).numpy(), atol=1e-5)
    assert read_card(Location.of(model)).names("my_") == ["my_score"]


def test_no_texts_have_no_scores(sentiment):
    assert Classifier(Location.of(sentiment), batch_size=2).score([[]]).shape == (0, 2)


def test_scores_become_columns():
    card = Card(("bad", "good"), (), "")
    columns = card.columns(np.array([[0.25, 0.75], [1 - 1e-9, 1e-9]]), "my_")
    assert (
        list(columns)
        == card.names("my_")
        == ["my_label", "my_probability_bad", "my_probability_good"]
    )
    assert columns["my_label"].to_pylist() == ["good", "bad"]
    assert columns["my_probability_good"].to_pylist() == [0.75, 0.0]
    none = card.columns(np.zeros((0, 2)))
    assert [values.type for values in none.values()] == [pa.string(), pa.float64(), pa.float64()]


def test_a_card_tells_models_apart(sentiment, tmp_path):
    card = read_card(Location.of(sentiment))
    assert (card.labels, card.text_columns) == (("negative", "positive"), ("text",))
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    assert read_card(Location.of(copy)) == card
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert read_card(Location.of(copy)).digest != card.digest


def test_what_is_no_model_is_refused(sentiment, tmp_path):
    with pytest.raises(UserError, match="there is no model"):
        read_card(Location.of(tmp_path))
    config = json.loads((sentiment / "config.json").read_text())
    for changed, message in (
        (config | {"model_type": "nonsense"}, "cannot be loaded"),
        (config | {"problem_type": "multi_label_classification"}, "several labels"),
    ):
        write_atomic(tmp_path / "config.json", json.dumps(changed))
        with pytest.raises(UserError, match=message):
            read_card(Location.of(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_model_is_refused(sentiment, tmp_path, name):
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be loaded"):
        Classifier(Location.of(copy), batch_size=2)


def test_a_model_in_an_object_store_is_copied(sentiment, bucket):
    for path in sentiment.iterdir():
        write_atomic(bucket / "model" / path.name, path.read_bytes())
    model = bucket / "model"
    assert read_card(model) == read_card(Location.of(sentiment))
    ours, theirs = (
        Classifier(place, 2).score([TEXTS]) for place in (model, Location.of(sentiment))
    )
    assert (ours == theirs).all()
