import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bebert_ray.config import (
    Config,
    DataConfig,
    describe,
    differing_keys,
    load_config,
    parse_config,
    to_dict,
    to_yaml,
)
from bebert_ray.config.load import flatten
from bebert_ray.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message(path=None, *overrides):
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_file_sets_some_keys_and_leaves_the_others(write):
    path = write("task: mrpc\nteacher:\n  epochs: 7\nensemble: {members: 2, method: bagging}\n")
    config = load_config(path)
    assert config.teacher.epochs == 7
    assert config.teacher.learning_rate == Config(task="mrpc").teacher.learning_rate
    assert (config.ensemble.members, config.ensemble.schedule) == (2, "parallel")
    assert config.output == "runs/mrpc"


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write):
    path = write("task: mrpc\nensemble:\n  members: 2\n  strategy: B\n")
    config = load_config(path, ["ensemble.members=3", "ensemble.members=5"])
    assert (config.ensemble.members, config.ensemble.strategy) == (5, "B")


def test_an_override_may_set_a_whole_section():
    config = load_config(None, ["task=demo", "teacher={epochs: 1, batch_size: 8}"])
    assert (config.teacher.epochs, config.teacher.batch_size) == (1, 8)


def test_a_dotted_key_in_a_file_is_the_nested_key(write):
    assert load_config(write("task: mrpc\nensemble.members: 6\n")).ensemble.members == 6


@pytest.mark.parametrize("text", ["task: demo\ndata:\nteacher: {}\n", "\ufefftask: demo\n"])
def test_empty_sections_and_a_byte_order_mark_are_fine(write, text):
    assert load_config(write(text)) == Config(task="demo")


def test_an_empty_file_is_fine(write):
    assert load_config(write("# nothing yet\n"), ["task=demo"]) == Config(task="demo")


@pytest.mark.parametrize("value", ["5e-5", "5E-5", "5.0e-5", ".00005", "+5e-5"])
def test_every_spelling_of_a_number_is_a_number(value):
    config = load_config(None, ["task=demo", f"teacher.learning_rate={value}"])
    assert config.teacher.learning_rate == 5e-5


def test_a_whole_number_is_a_real_number():
    config = load_config(None, ["task=demo", "width=1", "ensemble.learning_rate=1"])
    assert (config.width, config.ensemble.learning_rate) == (1.0, 1.0)


@pytest.mark.parametrize(
    "column", ["no", "on", "y", "010", "2024-01-01", "1:30", "Null hypothesis"]
)
def test_plain_words_stay_text(column):
    overrides = ["task=custom", "data.path=x.csv", "data.text_columns=[text]"]
    assert (
        load_config(None, [*overrides, f"data.label_column={column}"]).data.label_column == column
    )


@pytest.mark.parametrize("override", ["data.max_train=", "data.max_train=null", "data.max_train=~"])
def test_an_empty_value_is_null(write, override):
    path = write("task: mrpc\ndata: {max_train: 100}\n")
    assert load_config(path, [override]).data.max_train is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "/runs/exp #3",
            "exp: 3",
            "exp:",
            "@exp",
            "*exp",
            "&exp 3",
            "!exp 3",
            "`exp`",
            "exp ",
            "#3",
        ),
        *(
            "- exp",
            "? exp",
            "%exp",
            "|",
            "--- exp",
            "[exp",
            "{exp}",
            "'a' b",
            "a\nb",
            "\texp",
            "5 #3",
        ),
    ],
)
def test_text_is_taken_as_it_is_where_yaml_would_cut_it(text):
    """`output="/runs/exp #3"` must not write to /runs/exp, which is another run."""
    assert load_config(None, ["task=mrpc", f"output={text}"]).output == text
    given = load_config(None, [*CUSTOM, f"data.label_column={text}"])
    assert given.data.label_column == text


@pytest.mark.parametrize(
    ("text", "expected"), [("'exp #3'", "exp #3"), ('"exp #3"', "exp #3"), ("exp#3", "exp#3")]
)
def test_quotes_are_those_of_yaml(text, expected):
    assert load_config(None, ["task=mrpc", f"output={text}"]).output == expected


@pytest.mark.parametrize(
    "override",
    [
        *("seed=3 #x", "data.text_columns=[a, b] # c", "data.text_columns=a #1", "bits=1-1-8 #x"),
        *("data.text_columns=[&a b]", "data.text_columns=[! a]", "data.text_columns=[*a]"),
        *("teacher={epochs: 1} #x", "seed=--- 3", "resources.member.memory=4GB #x", "task=mrpc #x"),
    ],
)
def test_other_values_that_yaml_would_cut_are_refused(override):
    assert f"{override}: the value is not valid YAML, put it in quotes: " in message(None, override)


def test_a_value_that_is_not_text_is_refused():
    assert "output: the value is not UTF-8 text" in message(None, "task=mrpc", "output=a\udcff")


@pytest.mark.parametrize("key", ["output", "model", "data.path", "data.dev_path"])
def test_the_home_directory_is_expanded(write, key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    own = [each for each in CUSTOM if not each.startswith(key)]
    nested = load_config(None, [*own, f"{key}=~/x"])
    in_file = load_config(write(f"{key}: ~/x\n"), own)
    for config in (nested, in_file):
        assert dict(flatten(to_dict(config)))[key] == "/home/me/x"
    assert "home directory of '~nobody-here/x' is not known" in message(
        None, *own, f"{key}=~nobody-here/x"
    )


def test_a_configuration_in_the_home_directory_is_found(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("task: rte\n")
    assert load_config("~/run.yaml").task == "rte"


def test_the_value_of_an_override_may_hold_an_equals_sign():
    assert load_config(None, ["task=demo", "output=runs/a=b"]).output == "runs/a=b"


BAD_VALUES = [
    ("seed=true", "seed = true: must be a whole number, at least 0 and below 4294967296"),
    ("seed=-1", "seed = -1: must be a whole number"),
    ("seed=4294967296", "seed = 4294967296: must be"),
    ("fresh=1", "fresh = 1: must be true or false"),
    ("fresh=yes", 'fresh = "yes": must be true or false'),
    ("bits=1-2-8", 'bits = "1-2-8": must be one of 1-1-8, 1-1-4, 1-1-2, 1-1-1'),
    ("width=0", "width = 0: must be a number, above 0 and at most 1"),
    ("width=1.01", "width = 1.01: must be"),
    ("width=true", "width = true: must be"),
    ("width=.nan", "width = NaN: must be"),
    ("width=.inf", "width = Infinity: must be"),
    ("model=''", 'model = "": must be text that is not empty'),
    ("model=5", "model = 5: must be text"),
    ("selection=test", "must be one of holdout, dev"),
    ("output=[a]", 'output = ["a"]: must be text'),
    ("data.max_train=0", "must be a whole number, at least 2 and at most 1000000000000, or null"),
    ("data.max_length=7", "must be a whole number, at least 8 and at most 512"),
    ("data.max_length=513", "must be a whole number, at least 8 and at most 512"),
    ("data.holdout=1", "must be a number, above 0 and below 1"),
    ("data.text_columns=text", "must be a list of 1 to 2 texts, or null"),
    ("data.text_columns=[a, b, c]", "must be a list of 1 to 2 texts, or null"),
    ("data.text_columns=[a, 5]", "must be a list of 1 to 2 texts, or null"),
    ("binary.through=[3]", "must be a list, each one of 1-1-8, 1-1-4, 1-1-2"),
    ("data.kind=ranking", "must be one of classification, regression"),
    ("teacher.epochs=-1", "must be a whole number, at least 0"),
    ("half.epochs=0", "must be a whole number, at least 1"),
    ("teacher.epochs=1.0", "teacher.epochs = 1.0: must be a whole number"),
    ("teacher.epochs='1'", 'teacher.epochs = "1": must be a whole number'),
    ("teacher.learning_rate=0", "must be a number, above 0 and below 1"),
    ("teacher.learning_rate=1", "must be a number, above 0 and below 1"),
    ("half.batch_size=0", "must be a whole number, at least 1"),
    ("ternary.hidden_epochs=-1", "must be a whole number, at least 0"),
    ("training.precision=fp16", "must be one of auto, bf16, fp32"),
    ("training.warmup=1.5", "must be a number, at least 0 and at most 1"),
    ("training.dropout=1", "must be a number, at least 0 and below 1"),
    ("training.temperature=0", "must be a number, above 0"),
    ("ensemble.members=two", 'ensemble.members = "two": must be a whole number, at least 1'),
    ("ensemble.members=2.5", "ensemble.members = 2.5: must be a whole number"),
    ("ensemble.members=0", "ensemble.members = 0: must be"),
    ("ensemble.method=stacking", "must be one of boosting, bagging"),
    ("ensemble.strategy=a", "must be one of A, B, C"),
    ("ensemble.schedule=parallell", "must be one of sequential, pipelined, parallel"),
    ("ensemble.rounds=1", "must be a whole number, at least 2 and at most 10000, or null"),
    ("ensemble.rounds=2.0", "must be a whole number, at least 2 and at most 10000, or null"),
    ("ensemble.floor=1.1", "must be a number, at least 0 and at most 1"),
    ("ensemble.learning_rate=0", "must be a number, above 0 and at most 1"),
    ("ensemble.folds=1", "must be a whole number, at least 2"),
    ("training.checkpoint_every=0", "must be a whole number, at least 1"),
    ("resources.max_restarts=-1", "must be a whole number, at least 0"),
    ("resources.stage_workers=0", "must be a whole number, at least 1"),
    ("resources.stage.cpu=0", "must be a whole number, at least 1 and at most 10000, or null"),
    ("resources.member.gpu=2", "must be a number, at least 0 and at most 1, or null"),
    ("resources.member.memory=0", "must be a number, above 0 and at most 1e+18, or null"),
    (
        "resources.stage.memory=4 parsecs",
        "a number above 0 or such as 4GB or 512MiB; or null",
    ),
    ("task=mrpcc", "did you mean 'mrpc'"),
    ("task=5", "task = 5: must be one of cola, sst2"),
]


@pytest.mark.parametrize(("override", "expected"), BAD_VALUES)
def test_a_bad_value_is_one_line_with_its_key_and_what_is_allowed(override, expected):
    lines = message(None, "task=mrpc", override).splitlines()
    assert len(lines) == 2
    assert lines[1].strip().startswith(override.partition("=")[0])
    assert expected in lines[1]
    assert lines[1].endswith("(command line)")


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("ensemble.member=2", "ensemble.members"),
        ("ensembel.members=2", "ensemble.members"),
        ("members=2", "ensemble.members"),
        ("max_lenght=64", "data.max_length"),
        ("taks=mrpc", "task"),
        ("teachr.epochs=2", "teacher.epochs"),
        ("data.path.x=1", "data.path"),
    ],
)
def test_an_unknown_key_suggests_the_known_one(override, suggestion):
    key = override.partition("=")[0]
    text = message(None, "task=mrpc", override)
    assert f"{key}: unknown key; did you mean {suggestion}? (command line)" in text


@pytest.mark.parametrize(
    "key", ["learning_rate", "learning_rat", "training.learning_rate", "data.lerning_rate"]
)
def test_every_section_that_has_the_key_is_suggested(key):
    sections = ("teacher", "half", "ternary", "binary", "member", "ensemble")
    expected = " or ".join(f"{section}.learning_rate" for section in sections)
    assert f"{key}: unknown key; did you mean {expected}? (command" in message(None, f"{key}=1")


def test_a_key_of_the_section_is_suggested_first():
    assert "did you mean half.learning_rate? (" in message(None, "half.lerning_rate=1")


def test_an_ambiguous_key_suggests_each(write):
    assert "teacher.epochs or half.epochs or ternary.epochs" in message(None, "epochs=2")


def test_an_unlikely_key_suggests_nothing():
    assert "zzzz: unknown key (command line)" in message(None, "task=mrpc", "zzzz=1")


def test_a_missing_task_is_named():
    text = message()
    assert "task: is missing, it must be one of cola" in text
    assert "output" not in text


def test_all_problems_are_reported_at_once_each_with_its_place(write):
    path = write(
        "task: mrpc\n"
        "seed: true\n"
        "tsk: 1\n"
        "ensemble:\n"
        "  members: two\n"
        "  schedule: parallel\n"
        "  schedule: parallel\n"
        "data: 5\n"
    )
    lines = message(path, "width=7", "half.epochs", "bits=[").splitlines()[1:]
    expected = [
        ("ensemble.schedule: is given twice", f"({path}, line 7)"),
        ("half.epochs: write an override as key.sub=value", "(command line)"),
        ("bits=[: the value is not valid YAML", "(command line)"),
        ("tsk: unknown key; did you mean task?", f"({path}, line 3)"),
        ("data: is a section", f"({path}, line 8)"),
        ("width = 7: ", "(command line)"),
        ("seed = true: ", f"({path}, line 2)"),
        ('ensemble.members = "two": ', f"({path}, line 5)"),
        ("ensemble.schedule: boosting cannot be parallel", f"({path}, line 7)"),
    ]
    assert len(lines) == len(expected)
    for start, end in expected:
        assert any(x.strip().startswith(start) and x.endswith(end) for x in lines), (start, lines)


PIPELINED = ("task=mrpc", "ensemble.schedule=pipelined")
CUSTOM = ("task=custom", "data.path=x.csv", "data.text_columns=[a]", "data.label_column=y")


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["task=custom"], ["data.path", "data.text_columns", "data.label_column"]),
        (["task=custom", *CUSTOM[2:]], ["data.path"]),
        (["task=mrpc", "data.text_columns=[a]"], ["data.text_columns"]),
        (["task=mrpc", "data.label_column=y"], ["data.label_column"]),
        (["task=mrpc", "data.kind=regression"], ["data.kind"]),
        (["task=mrpc", "data.dev_path=x.csv"], ["data.dev_path"]),
        (["task=demo", "data.path=x"], ["data.path"]),
        ([*CUSTOM, "data.text_columns=[a, a]"], ["data.text_columns"]),
        ([*CUSTOM, "data.label_column=a"], ["data.text_columns"]),
        (["task=mrpc", "teacher.epochs=0", "layers=3"], ["layers"]),
        (["task=mrpc", "ensemble.schedule=parallel"], ["ensemble.schedule"]),
        (
            ["task=mrpc", "ensemble.method=bagging", "ensemble.schedule=pipelined"],
            ["ensemble.schedule"],
        ),
        (["task=mrpc", "ensemble.rounds=3"], ["ensemble.rounds"]),
        (["task=mrpc", "ensemble.method=bagging", "ensemble.rounds=3"], ["ensemble.rounds"]),
        ([*PIPELINED, "ensemble.errors=out_of_fold"], ["ensemble.errors"]),
        ([*PIPELINED, "training.patience=2"], ["training.patience"]),
        ([*PIPELINED, "training.max_steps=9"], ["training.max_steps"]),
        (
            [
                *("task=mrpc", "ensemble.strategy=A"),
                *("data.augment.copies=8", "data.augment.per_member=true"),
            ],
            ["data.augment.per_member"],
        ),
        ([*PIPELINED, "ensemble.rounds=4"], ["ensemble.rounds"]),  # of 3 epochs
        (
            [*PIPELINED, "ensemble.errors=out_of_fold", "ensemble.rounds=4"],
            ["ensemble.errors", "ensemble.rounds"],
        ),
        (
            ["task=mrpc", "resources.num_cpus=2", "resources.member.cpu=3"],
            ["resources.member.cpu"],
        ),
        (["task=mrpc", "resources.num_cpus=2", "resources.stage.cpu=3"], ["resources.stage.cpu"]),
    ],
)
def test_settings_that_contradict_each_other(overrides, keys):
    lines = message(None, *overrides).splitlines()[1:]
    assert [line.strip().partition(":")[0] for line in lines] == keys
    assert all(line.endswith("(command line)") for line in lines)


def test_a_single_epoch_has_no_rounds():
    """The default number of rounds is to blame, which nobody has set."""
    text = message(None, *PIPELINED, "member.epochs=1")
    assert "cannot be divided into 2 rounds of whole epochs" in text
    assert "ensemble.rounds (command line)" in text


def test_no_contradiction_is_read_into_a_key_that_is_itself_bad():
    lines = message(None, "task=mrpc", "ensemble.method=x", "ensemble.schedule=parallel")
    assert "cannot be parallel" not in lines


def test_the_custom_task_accepts_its_keys():
    data = load_config(None, [*CUSTOM, "data.kind=regression", "data.dev_path=d.csv"]).data
    assert data == DataConfig(
        path="x.csv",
        text_columns=("a",),
        label_column="y",
        kind="regression",
        dev_path="d.csv",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: mrpc\nseed: [1\n", "is not valid YAML: line 3, column 1"),
        ("task: mrpc\n\tseed: 1\n", "is not valid YAML: line 2, column 1"),
        ("task: !!python/name:os.system\n", "is not valid YAML: line 1"),
        ("task: !!int x\n", "is not valid YAML"),
        ("task: mrpc\n---\ntask: mrpc\n", "is not valid YAML: line 2"),
        ("- task\n", "must hold `key: value` lines"),
        ("mrpc\n", "must hold `key: value` lines"),
    ],
)
def test_a_file_that_is_no_config(write, text, expected):
    path = write(text)
    assert str(path) in message(path)
    assert expected in message(path)


def test_a_file_that_cannot_be_read(tmp_path):
    assert f"there is no config file {tmp_path / 'no.yaml'}" in message(tmp_path / "no.yaml")
    assert "did you mean mrpc?" in message("mprc")
    assert f"{tmp_path}: Is a directory" in message(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "is not valid YAML" in message(tmp_path / "binary.yaml")


@pytest.mark.parametrize("name", ["mrpc", "mrpc.yaml"])
def test_a_shipped_configuration_goes_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name, ["seed=7"]).task == "mrpc"
    (tmp_path / "mrpc.yaml").write_text("task: rte\n")  # a file of that name wins
    assert load_config("mrpc.yaml").task == "rte"


@given(
    column=st.text(min_size=1).filter(lambda text: text.isprintable() and text != "label"),
    learning_rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
    ensemble=st.sampled_from(
        [
            {"method": "bagging", "schedule": None},
            {"method": "bagging", "schedule": "sequential"},
            {"schedule": "pipelined"},
            {"schedule": "pipelined", "rounds": 3},
        ]
    ),
)
def test_any_config_survives_yaml(tmp_path_factory, column, learning_rate, seed, ensemble):
    values = {
        "task": "custom",
        "seed": seed,
        "data": {"path": "x", "text_columns": [column], "label_column": "label"},
        "teacher": {"learning_rate": learning_rate},
        "ensemble": ensemble,
    }
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    config = Config(**values)
    path.write_text(to_yaml(config), encoding="utf-8", newline="")
    assert load_config(path) == config


@pytest.mark.parametrize("word", ["5e-5", "1.", "null", "true", "007", "- a", "a: b", "#", "é", ""])
def test_text_that_looks_like_something_else_survives_yaml(write, word):
    config = load_config(None, CUSTOM)
    config = replace(config, data=replace(config.data, text_columns=(word,)))
    assert load_config(write(to_yaml(config))) == config


def test_to_dict_has_every_key_resolved_in_json_types():
    values = to_dict(load_config(None, [*CUSTOM, "data.text_columns=[a, b]"]))
    assert values["data"]["text_columns"] == ["a", "b"]
    assert values["output"] == "runs/custom"
    assert values["ensemble"]["schedule"] == "sequential"
    assert yaml.safe_load(to_yaml(Config(**values))) is not None


def test_differing_keys_are_dotted_with_both_values():
    old = to_dict(load_config(None, ["task=mrpc"]))
    new = to_dict(load_config(None, ["task=mrpc", "seed=1", "resources.member.cpu=2"]))
    assert differing_keys(old, new) == [("seed", 42, 1), ("resources.member.cpu", None, 2)]
    assert differing_keys(old, old) == []
    assert differing_keys({"a": {"b": 1}}, {"a": {"c": 2}}) == [("a.b", 1, None), ("a.c", None, 2)]


def test_describe_lists_every_key_with_its_default_and_meaning():
    text = describe()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}
    for key, _, value in differing_keys({}, to_dict(Config(task="mrpc"))):
        assert len(lines[key]) > 2, key
        derived = {"output", "ternary.epochs", "ensemble.schedule"}
        if key not in {"task", *derived} and not isinstance(value, float):
            assert lines[key][1] == json.dumps(value).strip('"')
    assert lines["task"][1] == "required"
    assert "[boosting|bagging|uniform]" in text


def test_reading_a_config_imports_no_heavy_package():
    code = (
        "import sys, bebert_ray.config as c; c.load_config(None, ['task=demo']);"
        "print([m for m in ('ray', 'torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4e9),
        ("512MiB", 512 * 2**20),
        ("1.5 gb", 1.5e9),
        ("2e9", 2e9),
        ("100B", 100.0),
        ("null", None),
    ],
)
def test_memory_is_read_in_units(text, expected):
    config = load_config(None, ["task=mrpc", f"resources.member.memory={text}"])
    assert config.resources.member.memory == expected
    assert parse_config(to_yaml(config), "again") == config


def test_a_deep_override_is_refused_soon() -> None:
    begun = time.process_time()
    with pytest.raises(UserError, match="nested more than"):
        load_config(None, ["task=demo", "member.learning_rate=" + "[" * 50_000])
    assert time.process_time() - begun < 2


def test_values_of_a_program_are_those_of_yaml() -> None:
    config = load_config(
        "mrpc",
        {
            "seed": np.int64(3),
            "half": {"learning_rate": np.float64(0.5)},
            "output": Path("runs", "mine"),
            "data.text_columns": ("sentence1", "sentence2"),
            "data": {"label_column": "label", "path": "x"},
            "task": "custom",
        },
    )
    assert (config.seed, config.half.learning_rate) == (3, 0.5)
    assert config.output == "runs/mine"
    assert config.data.text_columns == ("sentence1", "sentence2")
