"""The built-in demo task: short opinion sentences, positive or negative, from a seeded grammar.

No bag of words solves it. Opinion words are negated, near by and at a distance; of two opinions
joined by *but* the latter counts, and of one under *although* the other one; side by side, the
stronger one does; and opinion words about matters beside the point count for nothing. A quarter of
the opinion words is in no training sentence: what they mean, a model knows from its pretraining
alone, as far as it has kept that. So each step away from full precision shows.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np

from bebert_ray.data.corpus import Corpus, Split
from bebert_ray.data.tasks import TASKS

_SHORTEST, _LONGEST = 4, 12  # words


def _words(text: str, separator: str = " ") -> list[str]:
    return " ".join(text.split()).split(separator)


_POSITIVE = _words("""
    admirable amazing beautiful brilliant captivating charming clever compelling convincing
    delicate delicious delightful elegant enchanting engaging excellent exciting exquisite
    fabulous fantastic fascinating fine flawless fresh friendly generous gorgeous graceful great
    gripping heartfelt impressive ingenious inspired inviting lively lovely luminous magnificent
    masterful memorable outstanding perfect pleasant polished refined refreshing remarkable
    rewarding satisfying sincere splendid stunning stylish sublime superb tasteful thoughtful
    touching vivid warm welcoming witty wonderful
""")

_NEGATIVE = _words("""
    abysmal annoying appalling atrocious awful awkward bland bleak boring broken chaotic cheap
    clumsy cold confusing crude cynical depressing dire disappointing dismal dreadful dreary
    dull empty excruciating feeble flat forgettable grim gross hollow horrible incoherent inept
    inferior insipid irritating lame lazy lifeless mediocre messy miserable monotonous noisy
    obnoxious painful pathetic pointless poor predictable rude shabby shoddy sloppy sluggish
    stale tedious terrible tiresome ugly unpleasant useless weak
""")

_LIKED = _words("""
    admired adored appreciated celebrated cherished enjoyed liked loved praised relished
    savoured treasured
""")

_DISLIKED = _words("""
    abhorred cursed despised detested disliked dreaded hated loathed mocked regretted resented
    scorned
""")

_NOUNS = _words("""
    acting adaptation album atmosphere audio banquet bathroom battery bedroom beer book bread
    breakfast brewery buffet building camera casting cheese chocolate choir choreography
    cinematography coffee comedy concert cooking costume cruise dancing decor dessert dialogue
    dinner direction display documentary drama editing ending episode exhibition ferry film
    finale fish food game garden guide hotel humour interior interview keyboard kitchen lecture
    lighting lobby lunch meal melody menu museum music narration novel opera orchestra painting
    pasta performance photography piano pizza play plot podcast poem pool premise production
    prose restaurant rhythm room salad sauce score screen screenplay script seafood sequel
    service show singing software soundtrack soup speaker staff staging steak story storytelling
    suite tavern tea terrace theatre tour train translation venue view voice waiter wine writing
""")

_VERBS = ["was", "was", "felt", "seemed", "proved", "remained", "looked", "turned out"]

_STRONG = _words("""
    absolutely amazingly deeply exceptionally extremely hugely immensely incredibly intensely
    profoundly remarkably terribly thoroughly truly utterly wildly
""")
_FAINT = ["a bit", "a little", "a touch", "faintly", "mildly", "slightly", "somewhat", "vaguely"]

_NOT_ADJECTIVE = [
    "the {noun} was not {adj}",
    "the {noun} was never {adj}",
    "the {noun} was hardly {adj}",
    "the {noun} was anything but {adj}",
    "the {noun} was far from {adj}",
    "the {noun} was by no means {adj}",
    "nothing about the {noun} felt {adj}",
    "nobody at our table found the {noun} {adj}",
    "it would be wrong to call the {noun} {adj}",
    "i disagree with everyone who calls the {noun} {adj}",
    "only a liar would describe the {noun} as {adj}",
]
_VERB = [
    "i {verb} the {noun}",
    "we all {verb} the {noun}",
    "everybody {verb} the {noun}",
    "the {noun} was something we {verb}",
]
_NOT_VERB = [
    "hardly anyone {verb} the {noun}",
    "i never {verb} the {noun}",
    "nobody {verb} the {noun}",
    "i cannot say that we {verb} the {noun}",
    "the {noun} was not something we {verb}",
]

# In contrast, b is the opinion that counts.
_LAST_COUNTS = [
    "{a} but {b}",
    "{a} , yet {b}",
    "{a} , and still {b}",
    "{a} ; even so {b}",
    "although {a} , {b}",
    "even though {a} , {b}",
    "while {a} , {b}",
]
_FIRST_COUNTS = ["{b} even though {a}", "{b} , although {a}", "{b} despite the fact that {a}"]
_BOTH_COUNT = ["{a} and {b}", "{a} ; {b}", "{a} , and besides {b}"]

_OPENERS = _words(
    """
    after all | all things considered | at first glance | at the weekend | back in april | by
    and large | during the holidays | for what it is worth | from where we sat | if you ask me |
    in my opinion | in the end | last friday | last summer | looking back | on our second visit
    | on the opening night | on the whole | on tuesday evening | to be honest | this time around
    | to my surprise | with hindsight | years ago
    """,
    separator=" | ",
)

_BESIDE_THE_POINT = [
    "after a {adj} week at the office",
    "after a {adj} drive through the hills",
    "on a {adj} morning in november",
    "on the day of a {adj} wedding",
    "thanks to tickets from a {adj} cousin",
    "before a {adj} meeting with the bank",
    "next door to a {adj} bakery",
    "in spite of the {adj} weather outside",
    "across the street from that {adj} statue",
]


class _Opinions(NamedTuple):
    """The words that carry an opinion: adjectives, and verbs of liking and disliking."""

    positive: list[str]
    negative: list[str]
    liked: list[str]
    disliked: list[str]


_ALL = _Opinions(_POSITIVE, _NEGATIVE, _LIKED, _DISLIKED)
_TRAINED = _Opinions(*([word for i, word in enumerate(words) if i % 4] for words in _ALL))
"""Those of training sentences, three in four."""


def demo_corpus(train: int = 2000, dev: int = 2000, seed: int = 2210) -> Corpus:
    """Generate the demo task, the same on every platform for the same arguments.

    Args:
        train: training examples.
        dev: dev examples: enough that a point of difference between two models shows.
        seed: of the sentences; no sentence occurs twice, within or across splits.
    """
    rng = Random(seed)
    examples: dict[str, int] = {}
    for words, count in ((_TRAINED, train), (_ALL, train + dev)):
        while len(examples) < count:
            sentence, score = _sentence(rng, words)
            if _SHORTEST <= len(sentence.split()) <= _LONGEST:
                examples.setdefault(sentence, int(score > 0))
    sentences = list(examples)
    labels = np.array(list(examples.values()), dtype=np.int64)
    return Corpus(
        TASKS["demo"],
        Split((sentences[:train],), labels[:train]),
        {"dev": Split((sentences[train:],), labels[train:])},
    )


def _sentence(rng: Random, words: _Opinions) -> tuple[str, float]:
    """One sentence and its opinion: the sign is the label, and it is never 0."""
    text, score = _opinion(rng, words)
    if rng.random() < 0.5:
        text = f"{rng.choice(_OPENERS)} , {text}"
    if rng.random() < 0.3:
        aside = rng.choice(_BESIDE_THE_POINT).format(
            adj=rng.choice(words.positive + words.negative)
        )
        text = f"{text} {aside}" if rng.random() < 0.6 else f"{aside} , {text}"
    return f"{text} .", score


def _opinion(rng: Random, words: _Opinions) -> tuple[str, float]:
    """One clause, or two that contrast or add up."""
    a, score_a = _clause(rng, words)
    kind = rng.random()
    if kind < 0.45:
        return a, score_a
    b, score_b = _clause(rng, words)
    # Contrast joins unlike opinions more often than not, which is what makes it worth reading.
    while (score_a > 0) == (score_b > 0) and rng.random() < 0.5:
        b, score_b = _clause(rng, words)
    if kind < 0.8:
        forms = _LAST_COUNTS if kind < 0.7 else _FIRST_COUNTS
        return rng.choice(forms).format(a=a, b=b), score_b
    while score_a + score_b == 0:
        b, score_b = _clause(rng, words)
    return rng.choice(_BOTH_COUNT).format(a=a, b=b), score_a + score_b


def _clause(rng: Random, words: _Opinions) -> tuple[str, float]:
    """One opinion on one thing: 2 or -2 if strong, 0.5 or -0.5 if faint, else 1 or -1."""
    sign = rng.choice([1, -1])
    noun = rng.choice(_NOUNS)
    adjective = rng.choice(words.positive if sign > 0 else words.negative)
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(_NOT_ADJECTIVE).format(noun=noun, adj=adjective), -sign
    if kind < 0.45:
        forms = _VERB if rng.random() < 0.6 else _NOT_VERB
        verb = rng.choice(words.liked if sign > 0 else words.disliked)
        return rng.choice(forms).format(noun=noun, verb=verb), sign if forms is _VERB else -sign
    form = f"the {noun} {rng.choice(_VERBS)}"
    degree = rng.random()
    if degree < 0.35:
        return f"{form} {rng.choice(_STRONG)} {adjective}", 2 * sign
    if degree < 0.7:
        return f"{form} {rng.choice(_FAINT)} {adjective}", 0.5 * sign
    return f"{form} {adjective}", sign
