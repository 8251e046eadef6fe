"""The library as a program uses it: tables in memory, twice, from a thread, on a Ray it has."""

import re
import subprocess
import sys
import threading

import pandas as pd
import pyarrow as pa
import pytest

import bebert_ray as bb
from bebert_ray.api import as_table
from bebert_ray.config import load_config, to_dict
from bebert_ray.errors import UserError

SHORT = {
    "teacher": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
    "half": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "ternary": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "member": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "ensemble": {"members": 2, "method": "bagging"},
    "resources": {"num_cpus": 1, "member": {"memory": 2e8}},
}

DEEP: dict[str, object] = {}
DEEP["itself"] = DEEP


@pytest.fixture
def settings(tiny_checkpoint, tmp_path):
    return {
        "output": str(tmp_path / "run"),
        "model": str(tiny_checkpoint),
        "quiet": True,
        **SHORT,
        "data": {"max_length": 16},
    }


@pytest.fixture
def frame(reviews):
    frame = pd.read_csv(reviews / "train.tsv", sep="\t")
    return frame.rename(columns={"score": "stars"})


def test_importing_is_quick_and_loads_neither_torch_nor_ray():
    code = "import sys, bebert_ray as bb; print(*{'torch', 'ray', 'pydantic'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_the_door_has_what_it_lists():
    assert sorted(bb.__all__) == [
        *("Config", "Results", "load_config", "load_model", "predict", "sweep", "train")
    ]
    for name in bb.__all__:
        assert callable(getattr(bb, name)), name
    assert set(bb.__all__) <= set(dir(bb))
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = bb.fit


def test_sub_packages_do_not_hide_functions():
    """`import bebert_ray.x.y` sets the attribute x of the package."""
    code = (
        "import pkgutil, importlib, bebert_ray as bb\n"
        "for module in pkgutil.iter_modules(bb.__path__):\n"
        "    if module.name != '__main__': importlib.import_module(f'bebert_ray.{module.name}')\n"
        "print(all(callable(getattr(bb, name)) for name in bb.__all__))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 7}, r"train: is a builtins\.int; give a pandas DataFrame"),
        ({"train": pa.table({"x": ["a"]})}, r"no column named text or sentence \(it has x\)"),
        ({"train": pa.table({"text": ["a"]})}, r"no column named label \(it has text\)"),
        ({"dev": pa.table({"text": ["a"]})}, r"dev: there is no train"),
        ({"train": pa.table({"text": ["a"], "label": [1]}), "dev": "dev.csv"}, r"dev: is a path"),
        ({"task": "sst2", "ensemble": {"membres": 2}}, r"did you mean ensemble\.members\?"),
        ({"task": "sst2", "seed": object()}, r"seed: YAML has no such value, it is of type object"),
        (
            {"train": pa.table({"text": ["a"], "label": [1]}), "data": {"path": "x.csv"}},
            "leave one",
        ),
        ({"task": "sst2", "ensemble": DEEP}, r"is nested more than 20 deep"),
        ({"train": "a.csv", "dev": "b.csv", "data": {"dev_path": "c.csv"}}, "dev: is given, and"),
        ({"train": pd.DataFrame({"text": ["a"], "label": [10**30]})}, "train: cannot be read"),
        ({"train": pd.Series(["a"], name="text")}, "train: is a pandas.*Series; give"),
        ({"train": pa.table({"t" * 10**5: ["a"]})}, "has no column named text"),
    ],
)
def test_bad_input(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        bb.train(quiet=True, output=str(tmp_path / "run"), **arguments)
    assert not (tmp_path / "run").exists()


def test_a_config_with_all_keys_is_one_without_columns(frame, settings, monkeypatch):
    seen = []

    def no_training(config, *_, tables):
        seen.append((config.task, config.data.text_columns, config.data.label_column))
        return object()

    monkeypatch.setattr("bebert_ray.run.train", no_training)
    whole = to_dict(load_config(None, {"task": "sst2", "output": settings["output"]}))
    del whole["task"]
    bb.train(whole, train=frame)
    assert seen == [("custom", ("text",), "label")]


def test_messages_have_bounds():
    with pytest.raises(UserError) as refusal:
        bb.train(train=pa.table({"t" * 10**5: ["a"]}))
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "two"}, r'seed = "two": .*\(argument\)'),
        ({"seed": {1, 2}}, r"seed: YAML has no such value, it is of type set \(argument\)"),
        ({"note": "\ud800"}, r"note: is not UTF-8 text \(argument\)"),
        ({"ensemble": {"tusks": 2}}, r"ensemble\.tusks: unknown key.* \(argument\)"),
    ],
)
def test_messages_tell_arguments_from_lines_of_a_file(arguments, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("task: sst2\nhalf:\n  epocs: 1\n")
    for call in (bb.train, bb.sweep):
        with pytest.raises(UserError) as refusal:
            call(file, quiet=True, **arguments)
        assert re.search(message, str(refusal.value))
        assert re.search(r"half\.epocs: unknown key.*mine\.yaml, line 3\)", str(refusal.value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 8}, r"batch: is no option of predict; did you mean batch_size\?"),
        ({"batch_size": 0}, r"batch_size = 0: .* greater than or equal to 1"),
        ({"workers": "two"}, r"workers = two: .*valid integer"),
        ({"text_columns": "text"}, r"text_columns = text: .*valid list"),
    ],
)
def test_bad_options_of_predict(options, message):
    with pytest.raises(UserError, match=message):
        bb.predict("model", pa.table({"text": ["a"]}), **options)


def test_tables_of_each_kind():
    import datasets

    columns = {"text": ["a", "b"], "label": [0, 1]}
    for examples in (pd.DataFrame(columns), datasets.Dataset.from_dict(columns), pa.table(columns)):
        assert as_table(examples, "train").to_pydict() == columns


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_training_on_a_frame(frame, settings, capsys):
    import ray

    train, dev = frame[:72], frame[72:]
    results = bb.train(train=train, dev=dev, **settings)
    assert not ray.is_initialized(), "a Ray of its own is gone"
    assert 0 <= results.scores["dev"]["accuracy"] <= 1
    assert len(results.members) == 2

    # Again, in the same process, on a Ray that the program has, from a thread.
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        other = settings | {"seed": 7, "output": f"{settings['output']}-other"}
        again: list[bb.Results] = []
        thread = threading.Thread(
            target=lambda: again.append(bb.train(train=train, dev=dev, **other))
        )
        thread.start()
        thread.join()
        assert again[0].seed == 7
        assert bb.train(train=train, dev=dev, **settings).summary() == results.summary()
        assert ray.is_initialized(), "the program's Ray runs on"
        assert ray.available_resources()["CPU"] == 1, "and is free again"

        model = bb.load_model(results.model)
        assert model.config.id2label == {0: "neg", 1: "pos"}
        scored = bb.predict(results.model, dev.drop(columns="label"), quiet=True, workers=1)
        assert scored.num_rows == len(dev)
        assert {"text", "stars", "label"} - set(scored.column_names) == set()
    finally:
        ray.shutdown()
    assert capsys.readouterr().out == ""
