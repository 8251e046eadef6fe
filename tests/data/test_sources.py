import numpy as np
import pyarrow as pa
import pytest

from bebert_ray.data import sources
from bebert_ray.data.demo import demo_corpus
from bebert_ray.data.sources import Source, load_corpus
from bebert_ray.errors import UserError


def test_demo_needs_nothing_and_ignores_the_seed():
    first, second = (load_corpus("Demo", Source(), seed) for seed in (1, 2))
    assert first.train.texts == second.train.texts
    assert len(first.train) == 2000


def test_demo_refuses_a_path(tmp_path):
    with pytest.raises(UserError, match="demo task is built in"):
        load_corpus("demo", Source(path=str(tmp_path)), 0)


def test_max_train_keeps_order_and_proportions():
    whole = load_corpus("demo", Source(), 0)
    part = load_corpus("demo", Source(max_train=100), 0)
    assert len(part.train) == 100
    assert part.dev["dev"].texts == whole.dev["dev"].texts
    places = [whole.train.texts[0].index(text) for text in part.train.texts[0]]
    assert places == sorted(places)
    np.testing.assert_array_equal(part.train.labels, whole.train.labels[places])
    assert abs(part.train.labels.mean() - whole.train.labels.mean()) <= 0.005
    other = load_corpus("demo", Source(max_train=100), 1)
    assert other.train.texts != part.train.texts


def test_a_path_means_no_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "load_hub", lambda name: asked.append(name) or demo_corpus())
    load_corpus("SST-2", Source(), 0)
    assert asked == ["sst2"]
    with pytest.raises(UserError, match=r"SST-2/train\.tsv: there is no such file.*task=custom"):
        load_corpus("SST-2", Source(path=str(tmp_path)), 0)
    with pytest.raises(UserError, match="hub:a/b: is for task custom"):
        load_corpus("SST-2", Source(path="hub:a/b"), 0)


def test_custom_reads_the_users_files(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    data = Source(path=str(path), text_columns=("text",), label_column="label", max_train=10)
    corpus = load_corpus("custom", data, 0)
    assert corpus.task.labels == ("no", "yes")
    assert len(corpus.train) == 10


def test_classes_without_rows_are_named(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("text,label\n" + "good,yes\nbad,no\nso,maybe\n" * 5)
    source = Source(path=str(tmp_path), text_columns=("text",), label_column="label")
    (tmp_path / "dev.csv").write_text("text,label\ngood,yes\nbad,no\n")
    load_corpus("custom", source, 0)
    assert "dev: no row is of the class 'maybe'" in caplog.text
    caplog.clear()
    (tmp_path / "dev.csv").write_text("text,label\ngood,yes\nbad,yes\n")
    load_corpus("custom", source, 0)
    assert "dev: all 2 rows are of the class 'yes'" in caplog.text
    caplog.clear()
    (tmp_path / "dev.csv").write_text("text,label\ngood,yes\nbad,no\nso,maybe\n")
    load_corpus("custom", source, 0)
    assert not caplog.text


def test_tables_in_memory_are_for_custom_tasks():
    table = pa.table({"text": list("abcd"), "label": [0, 1, 0, 1]})
    source = Source(text_columns=("text",), label_column="label", max_train=2)
    assert len(load_corpus("custom", source, 0, tables={"train": table}).train) == 2
    with pytest.raises(UserError, match="need task custom"):
        load_corpus("sst2", source, 0, tables={"train": table})
