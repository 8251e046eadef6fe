import logging
import time

import numpy as np
import pytest

from bebert_ray.data.glue_tsv import LAYOUTS, load_glue_directory
from bebert_ray.data.tasks import TASKS
from bebert_ray.errors import UserError

# Header (none for CoLA) and two rows of each task's files in the official download, text made up.
MNLI_PARSES = "i\tp\tpair\tfiction\tb1\tb2\tp1\tp2"
FILES = {
    "cola": ["aa01\t0\t*\tBirds the sing .", "aa01\t1\t\tThe birds sing ."],
    "sst2": ["sentence\tlabel", "dull \t0", "a joy \t1"],
    "mrpc": [
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "0\t1\t2\tA .\tB .",
        '1\t3\t4\t" C\tC .',
    ],
    "stsb": [
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tg\tf\ty\t1\tnone\tnone\tA .\tB .\t0.250",
        "1\tg\tf\ty\t2\tnone\tnone\tC .\tC .\t5.000",
    ],
    "qqp": [
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tA ?\tB ?\t0",
        "4\t5\t6\tC ?\tC ?\t1",
    ],
    "mnli": [
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
        "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        f"{MNLI_PARSES}\tA .\tB .\tentailment\tentailment",
        f"{MNLI_PARSES}\tC .\tD .\tneutral\tcontradiction",
    ],
    "qnli": [
        "index\tquestion\tsentence\tlabel",
        "0\tA ?\tB .\tentailment",
        "1\tC ?\tD .\tnot_entailment",
    ],
    "rte": [
        "index\tsentence1\tsentence2\tlabel",
        "0\tA .\tB .\tentailment",
        "1\tC .\tD .\tnot_entailment",
    ],
    "wnli": ["index\tsentence1\tsentence2\tlabel", "0\tA .\tB .\t0", "1\tC .\tD .\t1"],
}
EXPECTED = {"stsb": [0.25, 5.0], "mnli": [0, 2]}
TEXTS = {
    "cola": (["Birds the sing .", "The birds sing ."],),
    "sst2": (["dull ", "a joy "],),
    "mrpc": (["A .", '" C'], ["B .", "C ."]),
    "stsb": (["A .", "C ."], ["B .", "C ."]),
    "qqp": (["A ?", "C ?"], ["B ?", "C ?"]),
    "qnli": (["A ?", "C ?"], ["B .", "D ."]),
}
PAIR = (["A .", "C ."], ["B .", "D ."])

ROWS = {
    "cola": (8551, 1043),
    "mrpc": (3668, 408),
    "rte": (2490, 277),
    "sst2": (67349, 872),
    "stsb": (5749, 1500),
    "wnli": (635, 71),
}


def lay_out(root, name, **replaced):
    """Write a task's files; ``replaced`` gives other lines for a split."""
    task = TASKS[name]
    folder = root / task.directory
    folder.mkdir()
    for split in ("train", *task.dev_splits):
        lines = replaced.get(split, FILES[name])
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(tmp_path, name):
    corpus = load_glue_directory(name, lay_out(tmp_path, name))
    assert list(corpus.dev) == list(TASKS[name].dev_splits)
    for split in (corpus.train, *corpus.dev.values()):
        assert split.texts == TEXTS.get(name, PAIR)
        np.testing.assert_array_equal(split.labels, EXPECTED.get(name, [0, 1]))
        assert split.labels.dtype == (np.float32 if name == "stsb" else np.int64)


def test_mnli_dev_files_may_have_other_columns_than_train(tmp_path):
    header, *rows = FILES["mnli"]
    wider = [header.replace("label1", "label1\tlabel2"), *(f"x\t{row}" for row in rows)]
    corpus = load_glue_directory("mnli", lay_out(tmp_path, "mnli", dev_matched=wider))
    assert corpus.dev["dev_matched"].labels.tolist() == [0, 2]


def test_rows_of_qqp_train_cut_by_a_line_break_are_left_out(tmp_path, caplog):
    cut = [*FILES["qqp"], "7\t8\t9\tWhy", " so ?\tHow ?\t1", "10\t11\t12\tE ?\tF ?\t1"]
    with caplog.at_level(logging.WARNING):
        corpus = load_glue_directory("qqp", lay_out(tmp_path, "qqp", train=cut))
    assert corpus.train.texts[0] == ["A ?", "C ?", "E ?"]
    assert "left out 2 lines" in caplog.text


def test_no_other_file_may_hold_broken_rows(tmp_path):
    cut = [*FILES["qqp"], "7\t8\t9\tWhy"]
    with pytest.raises(UserError, match=r"QQP/dev\.tsv, line 4: expected 6 columns, found 4"):
        load_glue_directory("qqp", lay_out(tmp_path, "qqp", dev=cut))


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("cola", "aa01\t1\tno fourth", r"CoLA/train\.tsv, line 3: expected 4 columns, found 3"),
        ("rte", "2\tA .\tB .\tmaybe", r"RTE/train\.tsv, line 4: label 'maybe' is not one of"),
        ("mnli", f"{MNLI_PARSES}\tA\tB\t-\t-", "line 4: label '-' is not one of"),
        ("stsb", "2\tg\tf\ty\t1\tnone\tnone\tA .\tB .\tfour", "line 4: score 'four'"),
        ("stsb", "2\tg\tf\ty\t1\tnone\tnone\tA .\tB .\t6.0", "line 4: score '6.0'.*from 0 to 5"),
    ],
)
def test_bad_rows(tmp_path, name, row, complaint):
    root = lay_out(tmp_path, name, train=[*FILES[name], row])
    with pytest.raises(UserError, match=complaint):
        load_glue_directory(name, root)


def test_missing_file_says_what_was_looked_for(tmp_path):
    (lay_out(tmp_path, "mnli") / "MNLI" / "dev_mismatched.tsv").unlink()
    layout = "MNLI/train.tsv, MNLI/dev_matched.tsv, MNLI/dev_mismatched.tsv"
    with pytest.raises(UserError, match=rf"MNLI/dev_mismatched\.tsv: there is no.*{layout}"):
        load_glue_directory("mnli", tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_real_files(glue_dir, name):
    start = time.perf_counter()
    corpus = load_glue_directory(name, glue_dir)
    assert time.perf_counter() - start < 5  # SST-2 takes a seventh of a second
    assert (len(corpus.train), len(corpus.dev["dev"])) == ROWS[name]
    for split in (corpus.train, corpus.dev["dev"]):
        assert all(len(column) == len(split) for column in split.texts)
        assert all(all(column) for column in split.texts)  # no text is empty
        if name != "stsb":
            assert set(split.labels) == set(range(corpus.task.num_labels))
