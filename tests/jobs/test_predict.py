"""The job as people run it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import predict
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bebert_ray.cli.common import run_job

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "predict.py"


@pytest.fixture(scope="module")
def model(tiny_checkpoint, tmp_path_factory):
    """A classifier of random weights."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    directory = tmp_path_factory.mktemp("model")
    config = BertConfig.from_pretrained(tiny_checkpoint, initializer_range=0.3)
    BertForSequenceClassification(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(directory)
    return directory


@pytest.fixture
def arguments(model, tmp_path):
    rows = pa.table({"id": range(1200), "text": ["the film is good", "bad", None] * 400})
    pq.write_table(rows, tmp_path / "in.parquet")
    return [
        *("--model", str(model)),
        *("--input", str(tmp_path / "in.parquet")),
        *("--output", str(tmp_path / "out")),
        *("--text-columns", "text"),
        *("--rows-per-file", "30"),
    ]


def run_here(arguments):
    return run_job(lambda: predict.main(arguments))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--model", "/nowhere"), "--model /nowhere: there is no model"),
        (("--input", "/nowhere"), "--input /nowhere: there is no such file"),
        (("--text-columns", "review"), "no column 'review'; the columns are: id, text"),
        (("--text-columns", "id"), "column 'id' is of type int64, which is not text"),
        (("--output", str(SCRIPT.parent)), "holds other things"),
        (("--glue", "mrpc"), "neither --text-columns nor --prefix"),
    ],
)
def test_bad_input_is_one_message(arguments, capsys, monkeypatch, changed, message):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    assert run_here([*arguments, *changed]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "wrong", [["--rows-per-file", "0"], ["--batch-size", "x"], ["--modle", "x"]]
)
def test_a_wrong_flag_shows_how_to_use_it(arguments, capsys, wrong):
    with pytest.raises(SystemExit) as end:
        run_here([*arguments, *wrong])
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_ray():
    code = (
        "import sys, predict\n"
        "try: predict.main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": f"{SCRIPT.parent}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--text-columns" in done.stdout


@pytest.mark.cluster
@pytest.mark.slow  # a minute; what a kill leaves is tested without Ray in tests/scoring
def test_killed_and_given_again_it_ends_with_every_row_once(arguments, tmp_path):
    def start():
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    output = tmp_path / "out"
    job = start()
    deadline = time.monotonic() + 120
    while len(list(output.glob("part-*"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = len(list(output.glob("part-*")))
    assert 10 <= done < 40

    stdout, stderr = start().communicate(timeout=120)
    figures = json.loads(stdout.splitlines()[-1])
    assert (figures["rows"], figures["scored"], figures["bad"]) == (1200, 800, 400)
    assert done <= figures["files_before"] < figures["files"] == 40
    assert "1,200 rows; 40 output files" in stderr
    rows = pq.read_table(sorted(output.glob("part-*")))
    assert rows["id"].to_pylist() == [i for i in range(1200) if i % 3 != 2]
    assert f"400 bad rows are listed in {output / '_bad_rows'}" in stdout
