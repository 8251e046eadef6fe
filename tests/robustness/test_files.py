import json

import pytest

from bebert_ray.data.tasks import TASKS, Task
from bebert_ray.errors import UserError
from bebert_ray.robustness.files import read_examples

STARS = Task("custom", ("text",), None, ("pearson", "spearman"))


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "dev.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_the_format_of_advglue(write):
    path = write(
        {
            "sst2": [
                {"sentence": "so goood", "idx": 0, "label": 1},
                {"sentence": "bda", "idx": 1, "label": "negative", "method": "typo"},
            ],
            "qqp": [{"question1": "a", "question2": "b", "label": 0, "idx": 0}],
            "mnli-mm": [],
        }
    )
    split = read_examples(path, TASKS["sst2"])
    assert split.texts == (["so goood", "bda"],)
    assert split.labels.tolist() == [1, 0]
    assert read_examples(path, TASKS["qqp"]).texts == (["a"], ["b"])


def test_a_plain_list_and_scores(write):
    path = write([{"text": "x", "label": 2}, {"text": "y", "label": 0.5}])
    assert read_examples(path, STARS).labels.tolist() == [2.0, 0.5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("3", "neither a list"),
        ([], "holds no list of examples"),
        ({"qqp": []}, "has no examples of sst2; it has qqp"),
        ([1], "example 0 of sst2 is no JSON object"),
        ([{"text": "a", "label": 0}], "has no text 'sentence'; it has text, label"),
        ([{"sentence": "a"}], "label 'None'; give one of negative, positive, or its index"),
        ([{"sentence": "a", "label": 2}], "has the label '2'"),
        ([{"sentence": "a", "label": True}], "has the label 'True'"),
    ],
)
def test_what_is_wrong_is_told(write, content, message):
    with pytest.raises(UserError, match=message):
        read_examples(write(content), TASKS["sst2"])


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_examples(tmp_path / "nil.json", TASKS["sst2"])
