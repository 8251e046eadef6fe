import json

import numpy as np
import pytest

from bebert_ray.data.files import load_files
from bebert_ray.data.sources import Source
from bebert_ray.errors import UserError


def config(path, **options):
    columns = {"text_columns": ("text",), "label_column": "mood"}
    return Source(path=str(path), **(columns | options))


def write(path, n=40, moods=("sad", "glad")):
    rows = [json.dumps({"text": f"text {i}", "mood": moods[i % len(moods)]}) for i in range(n)]
    path.write_text("\n".join(rows))
    return path


def test_labels_are_sorted_as_strings(tmp_path):
    write(tmp_path / "train.jsonl", moods=(10, 9, "b"))
    write(tmp_path / "dev.jsonl", n=2, moods=("b", 9))
    corpus = load_files(config(tmp_path), seed=0)
    assert corpus.task.labels == ("10", "9", "b")
    assert corpus.train.labels[:4].tolist() == [0, 1, 2, 0]
    assert corpus.dev["dev"].labels.tolist() == [2, 1]
    assert corpus.task.metrics == ("accuracy",)


def test_pairs_and_scores(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a,b,score\n" + "".join(f"a{i},b{i},{i / 4}\n" for i in range(20)))
    data = config(path, text_columns=("b", "a"), label_column="score", kind="regression")
    corpus = load_files(data, seed=0)
    assert corpus.task.is_regression
    assert corpus.task.metrics == ("pearson", "spearman")
    assert corpus.train.labels.dtype == np.float32
    for b, a, score in zip(*corpus.train.texts, corpus.train.labels, strict=True):
        assert (b, a) == (f"b{round(score * 4)}", f"a{round(score * 4)}")


def test_one_file_gives_a_seeded_tenth_for_dev(tmp_path):
    path = write(tmp_path / "all.jsonl")
    first, same, other = (load_files(config(path), seed) for seed in (1, 1, 2))
    assert (len(first.train), len(first.dev["dev"])) == (36, 4)
    assert first.dev["dev"].labels.tolist().count(0) == 2
    every = {*first.train.texts[0], *first.dev["dev"].texts[0]}
    assert every == {f"text {i}" for i in range(40)}
    assert first.dev["dev"].texts == same.dev["dev"].texts != other.dev["dev"].texts


def test_dev_beside_train_is_found_from_the_file_too(tmp_path):
    write(tmp_path / "train.jsonl")
    (tmp_path / "dev.csv").write_text("mood,text\nglad,of another format\n")
    corpus = load_files(config(tmp_path / "train.jsonl"), seed=0)
    assert corpus.dev["dev"].texts == (["of another format"],)


def test_dev_path_goes_first(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "dev.jsonl", n=10)
    chosen = write(tmp_path / "chosen.jsonl", n=3)
    assert len(load_files(config(tmp_path, dev_path=str(chosen)), seed=0).dev["dev"]) == 3


def test_dev_label_unknown_to_train(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "dev.jsonl", n=2, moods=("glad", "mad"))
    with pytest.raises(UserError, match=r"dev\.jsonl, line 2: label 'mad'.*: glad, sad"):
        load_files(config(tmp_path), seed=0)


def test_one_class_is_too_few(tmp_path):
    path = write(tmp_path / "all.jsonl", moods=("sad",))
    with pytest.raises(UserError, match="column 'mood' holds 1 different labels"):
        load_files(config(path), seed=0)


@pytest.mark.parametrize(
    ("names", "path", "complaint"),
    [
        ([], "absent.csv", r"absent\.csv: there is no such file"),
        ([], ".", r"there is no train file.*train\.\* and dev\.\*.*\.csv, \.tsv"),
        (["train.csv", "train.tsv"], ".", r"holds train\.csv and train\.tsv; keep one"),
    ],
)
def test_unclear_paths(tmp_path, names, path, complaint):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=complaint):
        load_files(config(tmp_path / path), seed=0)


def test_columns_must_be_named(tmp_path):
    with pytest.raises(UserError, match=r"needs data\.path, data\.text_columns"):
        load_files(Source(path=str(tmp_path)), seed=0)
