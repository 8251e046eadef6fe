"""Models, loaded from a directory, and what they make of texts."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

from bebert_ray.errors import UserError
from bebert_ray.packed import packed_model
from bebert_ray.scoring.classifier import Card, Classifier, read_card
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
    model = shutil.copytree(sentiment, tmp_path / "model")
    config = json.loads((sentiment / "config.json").read_text())
    for changed, message in (
        (config | {"model_type": "nonsense"}, "cannot be loaded"),
        (config | {"problem_type": "multi_label_classification"}, "several labels"),
    ):
        write_atomic(model / "config.json", json.dumps(changed))
        with pytest.raises(UserError, match=message):
            read_card(Location.of(model))


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


def save(directory, model, tokenizer_of, **tokenizer):
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer_of, **tokenizer).save_pretrained(directory)
    return Location.of(directory)


def test_roberta_counts_positions_from_its_padding(tiny_checkpoint, tmp_path):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = RobertaConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 31},
        pad_token_id=1,
    )
    model = save(
        *(tmp_path, RobertaForSequenceClassification(config), tiny_checkpoint),
        model_max_length=10**30,
    )
    loaded = Classifier(model, batch_size=2)
    assert loaded._max_length == 31 - 1 - 1
    assert np.isfinite(loaded.score([TEXTS])).all()


def test_a_model_without_padding_scores_one_by_one(tiny_checkpoint, tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, num_labels=2
    )
    model = save(tmp_path, GPT2ForSequenceClassification(config), tiny_checkpoint, pad_token=None)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings.get("pad_token") is None
    scores = Classifier(model, batch_size=4).score([TEXTS])
    alone = [Classifier(model, batch_size=1).score([[text]])[0] for text in TEXTS[:2]]
    np.testing.assert_allclose(scores[:2], alone, atol=1e-6)


def test_a_model_without_a_table_of_positions_has_a_limit(tiny_checkpoint, tmp_path):
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_checkpoint)),
        **{"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16},
    )
    assert config.max_position_embeddings == -1
    model = save(tmp_path, XLNetForSequenceClassification(config), tiny_checkpoint)
    assert np.isfinite(Classifier(model, batch_size=2).score([TEXTS])).all()


def test_a_model_that_needs_more_than_texts_is_told_in_one_line(tiny_checkpoint, tmp_path):
    from transformers import T5Config, T5ForSequenceClassification

    config = T5Config(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_checkpoint)),
        **{"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8},
    )
    model = save(tmp_path, T5ForSequenceClassification(config), tiny_checkpoint)
    with pytest.raises(UserError, match=r"cannot score these texts \(") as refusal:
        Classifier(model, batch_size=2).score([TEXTS])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_never_run(sentiment, tmp_path, name):
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    settings = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(settings | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match=rf"needs code of its own \(auto_map in {name}\)"):
        read_card(Location.of(copy))
    assert not (tmp_path / "ran").exists()


def test_a_model_without_its_classifier_is_refused(sentiment, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(sentiment, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")

    def refused(message, **changed):
        kept = {key: value for key, value in (tensors | changed).items() if value is not None}
        save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            Classifier(Location.of(copy), batch_size=2)

    refused(
        r"has no classifier\.bias, classifier\.weight;",
        **dict.fromkeys(("classifier.weight", "classifier.bias")),
    )
    refused("another shape of classifier.weight", **{"classifier.weight": torch.zeros(3, 2)})
    refused("has, beside what a classifier has, more;", more=torch.zeros(1))


def test_two_classes_of_one_name_are_refused(sentiment, tmp_path):
    copy = shutil.copytree(sentiment, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["id2label"] = {"0": "same", "1": "same"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="two classes are named 'same'"):
        read_card(Location.of(copy))


def test_another_models_tokenizer_is_told(sentiment, caplog):
    Classifier(Location.of(sentiment), batch_size=2).score([["жжж ъъъ", "щщщ"]])
    assert "3 of 3 tokens are unknown to the tokenizer" in caplog.text


@pytest.mark.parametrize("cascade", [False, True])
def test_members_are_asked_one_after_another_where_that_is_asked_for(
    member, tiny_checkpoint, tmp_path, cascade
):
    members = [member(seed) for seed in range(2)]
    first = packed_model(members[:1], [1.0], ("no", "yes"), ["text"])
    both = packed_model(members, [1.0, 1.0], ("no", "yes"), ["text"])
    both.config.cascade_settings = {"threshold": 0.0, "members": 1.0, "loss": 0.0}
    for name, model in (("first", first), ("both", both)):
        BertTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / name)
        model.save_pretrained(tmp_path / name)
    assert read_card(Location.of(tmp_path / "both")).has_cascade
    alone = Classifier(Location.of(tmp_path / "first"), 2).score([TEXTS])
    scores = Classifier(Location.of(tmp_path / "both"), 2, cascade).score([TEXTS])
    assert np.allclose(scores, alone, atol=1e-6) == cascade
