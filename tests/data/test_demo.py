import hashlib
import re

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from bebert_ray.data.demo import _DISLIKED, _LIKED, _NEGATIVE, _POSITIVE, demo_corpus


@pytest.fixture(scope="module")
def corpus():
    return demo_corpus()


def test_golden(corpus):
    """The demo is a benchmark: if its sentences change, every figure quoted on it does."""
    digest = hashlib.sha256()
    for split in (corpus.train, corpus.dev["dev"]):
        digest.update("\n".join(split.texts[0]).encode())
        digest.update(split.labels.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "e95a3f066a8a78c4"


def test_sizes_and_shape_of_the_sentences(corpus):
    train, dev = corpus.train, corpus.dev["dev"]
    assert (len(train), len(dev)) == (2000, 2000)
    sentences = train.texts[0] + dev.texts[0]
    assert len(set(sentences)) == 4000  # no sentence twice, so none on both sides
    assert all(4 <= len(sentence.split()) <= 12 for sentence in sentences)
    assert len({word for sentence in sentences for word in sentence.split()}) > 400
    for split in (train, dev):
        assert 0.45 < split.labels.mean() < 0.55


def test_a_quarter_of_the_opinion_words_is_in_dev_alone(corpus):
    def opinions(split):
        words = {word for sentence in split.texts[0] for word in sentence.split()}
        return words & {*_POSITIVE, *_NEGATIVE, *_LIKED, *_DISLIKED}

    train, dev = opinions(corpus.train), opinions(corpus.dev["dev"])
    assert train < dev
    assert 0.2 < len(dev - train) / len(dev) < 0.3


def test_other_seeds_and_sizes():
    assert demo_corpus(30, 10, seed=1).train.texts != demo_corpus(30, 10, seed=2).train.texts
    small = demo_corpus(30, 10)
    assert (len(small.train), len(small.dev["dev"])) == (30, 10)


@pytest.mark.parametrize("n", [1, 2])
def test_counting_words_does_not_solve_it(corpus, n):
    train, dev = corpus.train, corpus.dev["dev"]
    vectorizer = CountVectorizer(ngram_range=(1, n), token_pattern=r"\S+")
    model = LogisticRegression(max_iter=500).fit(
        vectorizer.fit_transform(train.texts[0]), train.labels
    )
    assert model.score(vectorizer.transform(dev.texts[0]), dev.labels) < 0.7


NOUN = r"the \w+"
LAST_CLAUSE = rf"{NOUN} (?:was|felt|seemed|proved|looked) (?P<word>\w+) \.$"
CASES = {
    "plain": (rf"^[a-z ]+ , {NOUN} (?:was|felt|seemed) (?:truly|a bit) (?P<word>\w+) \.$", 1),
    "negated": (rf"^[a-z ]+ , {NOUN} was (?:not|never|hardly|far from) (?P<word>\w+) \.$", -1),
    "far negation": (r"^[a-z ]+ , nothing about the \w+ felt (?P<word>\w+) \.$", -1),
    "last one counts": (rf"but {LAST_CLAUSE}", 1),
    "first one counts": (rf"^{NOUN} was (?P<word>\w+) (?:, although|even though)", 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_label_is_what_the_sentence_says(case):
    pattern, sign = CASES[case]
    dev = demo_corpus(train=0, dev=20_000).dev["dev"]
    polarity = dict.fromkeys(_POSITIVE, 1) | dict.fromkeys(_NEGATIVE, -1)
    found = 0
    for sentence, label in zip(dev.texts[0], dev.labels, strict=True):
        match = re.search(pattern, sentence)
        if match:
            found += 1
            assert label == (polarity[match["word"]] * sign > 0), sentence
    assert found > 20
