import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.data.files import load_files, load_tables
from bebert_ray.data.sources import Source
from bebert_ray.errors import UserError
from bebert_ray.storage import write_atomic


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


def rows(*pairs):
    return "text,mood\n" + "".join(f"{text},{mood}\n" for text, mood in pairs)


FOUR = [(f"text {i}", ("sad", "glad")[i % 2]) for i in range(4)]


@pytest.mark.parametrize(
    ("train", "dev"),
    [
        ("train.csv", "validation.csv"),
        ("train.CSV", "dev.CSV"),
        ("TRAIN.csv", "val.csv"),
        ("train-00000-of-00001.csv", "valid-00000-of-00001.csv"),
    ],
)
def test_names_of_the_splits(tmp_path, train, dev):
    (tmp_path / train).write_text(rows(*FOUR))
    (tmp_path / dev).write_text(rows(("other", "sad"), ("another", "glad")))
    corpus = load_files(config(tmp_path), seed=0)
    assert (len(corpus.train), corpus.dev["dev"].texts) == (4, (["other", "another"],))


def test_dev_goes_before_validation(tmp_path):
    for name, text in (("train", "a"), ("validation", "b"), ("dev", "c")):
        (tmp_path / f"{name}.csv").write_text(rows((text, "sad"), (text, "glad")))
    assert load_files(config(tmp_path), seed=0).dev["dev"].texts == (["c", "c"],)


def test_shards_are_read_in_order_and_all_must_be_there(tmp_path):
    for i in range(3):
        table = pa.table({"text": [f"{i}a", f"{i}b"], "mood": ["sad", "glad"]})
        pq.write_table(table, tmp_path / f"train-0000{i}-of-00003.parquet")
    (tmp_path / "dev.csv").write_text(rows(*FOUR))
    corpus = load_files(config(tmp_path), seed=0)
    assert corpus.train.texts == (["0a", "0b", "1a", "1b", "2a", "2b"],)
    assert corpus.train.labels.tolist() == [1, 0] * 3
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00003\.parquet and train-00002.*missing"):
        load_files(config(tmp_path), seed=0)


def test_directories_that_datasets_saved(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["zero", "one"])}
    )
    saved = datasets.Dataset.from_dict({"text": list("abcd"), "mood": [0, 1, 0, 1]}, features)
    saved.save_to_disk(tmp_path / "one")
    assert len(load_files(config(tmp_path / "one"), seed=0).train) == 3
    datasets.DatasetDict(train=saved, validation=saved.select([3])).save_to_disk(tmp_path / "two")
    corpus = load_files(config(tmp_path / "two"), seed=0)
    assert corpus.task.labels == ("one", "zero")
    assert corpus.dev["dev"].labels.tolist() == [0]
    (tmp_path / "two" / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match="two: this saved dataset cannot be read"):
        load_files(config(tmp_path / "two"), seed=0)


def test_a_dataset_of_the_hub(monkeypatch):
    dataset = datasets.Dataset.from_dict({"text": list("abcd"), "mood": [0, 1, 0, 1]})
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names: asked.append(names) or {"train": dataset}
    )
    assert load_files(config("hub:owner/name:part"), seed=0).task.labels == ("0", "1")
    assert asked == [("owner/name", "part")]


def test_a_dataset_of_the_hub_has_a_name():
    with pytest.raises(UserError, match=r"data\.path=hub:: name the dataset, such as hub:owner"):
        load_files(config("hub:"), seed=0)


def test_an_object_store_does_as_well(bucket):
    write_atomic(bucket / "in" / "train.csv", rows(*FOUR))
    write_atomic(bucket / "in" / "dev.csv", rows(*FOUR[:2]))
    for place in (bucket / "in", bucket / "in" / "train.csv"):
        corpus = load_files(config(str(place)), seed=0)
        assert (len(corpus.train), len(corpus.dev["dev"])) == (4, 2)


@pytest.mark.parametrize(("count", "dev"), [(1, False), (2, False), (1, True)])
def test_too_few_rows_are_counted_with_the_file(tmp_path, count, dev):
    path = tmp_path / "train.csv"
    path.write_text("text,score\n" + "a,1\n" * count)
    if dev:
        (tmp_path / "dev.csv").write_text("text,score\na,1\n")
    source = config(path, label_column="score", kind="regression")
    needed = "2 or more" if dev else "3 or more"
    message = rf"train\.csv: holds {count} examples?, too few .*give {needed}"
    with pytest.raises(UserError, match=message):
        load_files(source, seed=0)


def test_labels_that_look_alike_are_named(tmp_path, caplog):
    moods = ["1", "1 ", "1.0", "0"]
    (tmp_path / "train.csv").write_text(rows(*((f"t{i}", mood) for i, mood in enumerate(moods))))
    corpus = load_files(config(tmp_path / "train.csv"), seed=0)
    assert corpus.task.labels == ("0", "1", "1 ", "1.0")
    assert "the labels '1', '1 ', '1.0' are 3 different classes" in caplog.text


def test_large_numbers_that_floats_do_not_tell_apart_do_not_look_alike(tmp_path, caplog):
    moods = [str(10**30), str(10**30 + 1), "nan", "snan"]
    (tmp_path / "train.csv").write_text(rows(*((f"t{i}", mood) for i, mood in enumerate(moods))))
    load_files(config(tmp_path / "train.csv"), seed=0)
    assert caplog.text == ""


TABLE = pa.table({"text": list("abcd"), "mood": ["sad", "glad"] * 2, "n": [1.0, 2.0, 3.0, 1e300]})


def test_tables_in_memory():
    source = Source(text_columns=("text",), label_column="mood")
    dev = pa.table({"mood": ["glad"], "text": ["x"]})
    corpus = load_tables(source, {"train": TABLE, "dev": dev}, seed=0)
    assert corpus.task.labels == ("glad", "sad")
    assert corpus.train.texts == (list("abcd"),)
    assert corpus.train.labels.tolist() == [1, 0, 1, 0]
    assert corpus.dev["dev"].texts == (["x"],)
    assert len(load_tables(source, {"train": TABLE, "dev": None}, seed=0).dev["dev"]) == 1


@pytest.mark.parametrize(
    ("train", "dev", "options", "complaint"),
    [
        (
            TABLE,
            None,
            {"label_column": "n", "kind": "regression"},
            "train, row 4: score 1e.300 .*o",
        ),
        (TABLE, None, {"label_column": "x"}, "train: there is no column 'x'; .*: text, mood, n"),
        (TABLE, None, {"text_columns": ("n",)}, "train, row 1: column 'n' holds 1.0, not text"),
        (TABLE, pa.table({"text": ["a"], "mood": ["mad"]}), {}, "dev, row 1: label 'mad' is not"),
        (TABLE.slice(0, 2), None, {}, "train: holds 2 examples, too few"),
        (TABLE.slice(0, 0), None, {}, "train: holds no examples"),
        (None, None, {}, "train: there is no table"),
    ],
)
def test_faults_of_tables_in_memory(train, dev, options, complaint):
    source = Source(**({"text_columns": ("text",), "label_column": "mood"} | options))
    with pytest.raises(UserError, match=complaint):
        load_tables(source, {"train": train, "dev": dev}, seed=0)
