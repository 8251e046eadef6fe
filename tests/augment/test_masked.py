import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM

from bebert_ray.augment.copies import Replacer
from bebert_ray.augment.masked import load_masked
from bebert_ray.augment.vectors import make_vectors
from bebert_ray.augment.words import Rules, find_words
from bebert_ray.errors import UserError


@pytest.fixture(scope="session")
def masked_checkpoint(tiny_checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("masked")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM.from_pretrained(tiny_checkpoint).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(directory)
    return directory


def test_proposals_are_the_likeliest_whole_words_but_the_word_itself(masked_checkpoint):
    model = load_masked(masked_checkpoint).open(torch.device("cpu"))
    text = "The good film, a xyz"
    found = model.propose(text, find_words(text), 4, numbers=False)
    assert set(found) == {0, 1, 2, 3}  # xyz is several tokens
    tokenizer = AutoTokenizer.from_pretrained(masked_checkpoint)
    reference = BertForMaskedLM.from_pretrained(masked_checkpoint).eval()
    encoded = tokenizer(text.replace("good", "[MASK]"), return_tensors="pt")
    logits = reference(**encoded).logits[0, 2]
    order = tokenizer.convert_ids_to_tokens(logits.argsort(descending=True))
    wanted = [word for word in order if len(word) > 1 and word.isalpha() and word != "good"]
    assert found[1] == wanted[:4]


def test_an_encoder_without_the_head_is_refused(tiny_checkpoint):
    with pytest.raises(UserError, match=r"is no masked language model \(it lacks cls\."):
        load_masked(tiny_checkpoint)


def test_the_model_goes_first_and_vectors_know_the_words_of_several_tokens(masked_checkpoint):
    masked = load_masked(masked_checkpoint)
    words = ["xyz", "xyzz", "good", "tree"]
    vectors = make_vectors(words, np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]]), numbers=False)
    text = "good xyz, qq"
    rules = Rules(keep_stop_words=False)

    def options(**sources):
        [[found]] = Replacer(2, rules, **sources).choices([(text,)])
        return {word.text: candidates for word, candidates in found}

    proposed = masked.open(torch.device("cpu")).propose(text, find_words(text)[:1], 2, False)
    near = {"good": ["xyzz", "xyz"], "xyz": ["xyzz", "good"]}
    assert options(masked=masked) == {"good": proposed[0]}
    assert options(vectors=vectors) == near
    assert options(masked=masked, vectors=vectors) == near | {"good": proposed[0]}
