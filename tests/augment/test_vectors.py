import numpy as np
import pytest

from bebert_ray.augment.vectors import check_vectors, make_vectors, read_glove
from bebert_ray.errors import UserError

WORDS = ["good", "great", "bad", "Good", "tree", "##s", "x2", ","]
MATRIX = np.array([[1, 0], [0.9, 0.1], [-1, 0], [1, 0.01], [0, 1], [1, 0], [1, 0], [1, 0]])


@pytest.fixture
def glove(tmp_path):
    def write(text):
        path = tmp_path / "vectors.txt"
        path.write_text(text)
        return path

    return write


def test_the_nearest_whole_words_come_first_and_never_the_word_itself():
    near = make_vectors(WORDS, MATRIX, numbers=False).nearest(["GOOD", "tree", "nil"], 2)
    assert near == {"GOOD": ["great", "tree"], "tree": ["great", "Good"]}


def test_numbers_are_words_if_asked_for():
    assert make_vectors(WORDS, MATRIX, numbers=True).nearest(["great"], 3)["great"][-1] == "x2"


def test_the_nearest_words_do_not_depend_on_what_else_is_asked():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(300)]
    words = sorted(set(words))
    vectors = make_vectors(words, rng.normal(size=(len(words), 8)), numbers=False)
    together = vectors.nearest(words, 5)
    assert all(vectors.nearest([word], 5)[word] == together[word] for word in words[:40])
    cosines = vectors.matrix @ vectors.matrix[3]
    assert together[words[3]] == [words[i] for i in np.argsort(-cosines)[1:6]]


def test_a_file_with_and_without_header_is_read(glove):
    lines = "good 1 0\ngreat 2 0\n. . 5 5\nbad -1 0\n"
    plain = read_glove(glove(lines), numbers=False)
    assert plain.words == ("good", "great", "bad")
    assert np.allclose(plain.matrix, [[1, 0], [1, 0], [-1, 0]])
    headed = read_glove(glove("4 2\n" + lines), numbers=False)
    assert headed.words == plain.words
    assert check_vectors(glove(lines)) != check_vectors(glove("4 2\n" + lines))


@pytest.mark.parametrize("bad", ["torn 1", "torn 1 x", "torn", "torn 1 nan"])
def test_a_torn_line_is_named(glove, bad):
    path = glove(f"good 1 0\ngreat 2 0\nsome 1 2\nmore 1 2\n{bad}\n")
    with pytest.raises(UserError, match=r"vectors.txt, line 5: is not a word and 2 numbers"):
        read_glove(path, numbers=False)
    check_vectors(path)  # looks at the first lines alone
    with pytest.raises(UserError, match=r"line 2"):
        check_vectors(glove(f"good 1 0\n{bad}\n"))


def test_a_file_that_is_absent_or_has_no_words(glove, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nil: No such file"):
        check_vectors(tmp_path / "nil")
    with pytest.raises(UserError, match="no vector of a word"):
        read_glove(glove(", 1 0\n"), numbers=False)
