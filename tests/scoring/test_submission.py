"""GLUE's test splits, and the leaderboard's files."""

import io

import numpy as np
import pytest
from rich.console import Console

from bebert_ray.errors import UserError
from bebert_ray.scoring import submission
from bebert_ray.scoring.classifier import Classifier
from bebert_ray.scoring.run import Request


@pytest.fixture
def submit(tmp_path, without_ray):
    """Makes a submission; returns what is in its files."""

    def submit(glue, model, **settings):
        request = Request(
            str(model), [str(tmp_path / "glue")], str(tmp_path / "out"), rows_per_file=2, **settings
        )
        submission.submit(glue, request, Console(file=io.StringIO()))
        return {
            path.name: [line.split("\t") for line in path.read_text().splitlines()]
            for path in (tmp_path / "out").glob("*.tsv")
        }

    return submit


@pytest.fixture
def write(tmp_path):
    def write(file, *rows):
        path = tmp_path / "glue" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join("\t".join(row) + "\n" for row in rows))

    return write


@pytest.fixture
def pairs(write):
    """MRPC's test file."""
    write(
        "MRPC/test.tsv",
        ("\ufeffindex", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        *((str(i), "7", "8", f'"good {i}', "bad\u2028film") for i in range(5)),
    )


def test_classes_are_spelled_as_in_the_training_files(submit, pairs, classifier):
    files = submit("MRPC", classifier("not_equivalent", "equivalent"))
    assert list(files) == ["MRPC.tsv"]
    header, *rows = files["MRPC.tsv"]
    assert header == ["index", "prediction"]
    assert [index for index, _ in rows] == ["0", "1", "2", "3", "4"]
    assert {label for _, label in rows} <= {"0", "1"}


@pytest.mark.parametrize(
    ("names", "spelled"),
    [
        (("LABEL_0", "LABEL_1"), {"LABEL_0": "0", "LABEL_1": "1"}),
        (("Equivalent", "not equivalent"), {"Equivalent": "1", "not equivalent": "0"}),
    ],
)
def test_the_spelling_goes_by_the_names_of_classes_if_they_have_any(
    submit, pairs, classifier, tmp_path, names, spelled
):
    predicted = [label for _, label in submit("mrpc", classifier(*names))["MRPC.tsv"][1:]]
    scored = (tmp_path / "out" / "_mrpc").glob("part-*.tsv")
    labels = [line.split("\t")[5] for path in sorted(scored) for line in lines(path)]
    assert predicted == [spelled[label] for label in labels]


def test_classes_of_other_names_are_refused(submit, pairs, classifier):
    with pytest.raises(UserError, match=r"its classes are cat, dog, and those of --glue mrpc are"):
        submit("MRPC", classifier("cat", "dog"))


def lines(path):
    return path.read_text().removesuffix("\n").split("\n")[1:]


def test_scores_stay_within_their_range(submit, write, classifier, monkeypatch):
    write(
        "STS-B/test.tsv", ("index", "sentence1", "sentence2"), *[(str(i), "a", "b") for i in "12"]
    )
    monkeypatch.setattr(Classifier, "score", lambda *_: np.array([[-1.0], [5.5]]))
    assert submit("stsb", classifier())["STS-B.tsv"][1:] == [["1", "0.000"], ["2", "5.000"]]


def test_mnli_has_up_to_three_files(submit, write, classifier):
    for file in ("MNLI/test_matched.tsv", "MNLI/test_mismatched.tsv", "diagnostic/diagnostic.tsv"):
        write(file, ("index", "sentence1", "sentence2"), ("0", "good", "bad"))
    files = submit("mnli", classifier("LABEL_0", "LABEL_1", "LABEL_2"))
    assert sorted(files) == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
    assert files["AX.tsv"][1][1] in ("entailment", "neutral", "contradiction")


def test_qqp_calls_its_index_id(submit, write, classifier):
    write("QQP/test.tsv", ("id", "question1", "question2"), ("9", "good", ""))
    assert submit("qqp", classifier("LABEL_0", "LABEL_1"))["QQP.tsv"][1][0] == "9"


def test_what_does_not_fit_the_task_is_refused(submit, pairs, classifier, write):
    model = classifier("LABEL_0", "LABEL_1")
    with pytest.raises(UserError, match="one of 2 classes, and --glue mnli needs one of 3"):
        submit("mnli", model)
    with pytest.raises(UserError, match="predicts a score, and --glue mrpc"):
        submit("mrpc", classifier())
    with pytest.raises(UserError, match=r"RTE/test\.tsv"):
        submit("rte", model)
    with pytest.raises(UserError, match="is none of GLUE's"):
        submit("demo", model)
    with pytest.raises(UserError, match="neither --text-columns nor --prefix"):
        submit("mrpc", model, prefix="my_")


def test_no_example_may_lack_a_prediction(submit, write, classifier):
    write("RTE/test.tsv", ("index", "sentence1", "sentence2"), ("0", "a", "b"), ("1", "a"))
    with pytest.raises(UserError, match=r"prediction for every example.*_bad_rows"):
        submit("rte", classifier("LABEL_0", "LABEL_1"))
