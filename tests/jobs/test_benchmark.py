"""The benchmarks run and print what they should; what they measure is not judged here."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

SCRIPT = Path(__file__).resolve().parents[2] / "jobs" / "benchmark.py"


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True
    )


def figures(job):
    assert job.returncode == 0, job.stderr
    return json.loads(job.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "what", ["train", "control", "schedules", "kinds", "alphas", "infer", "serve"]
)
def test_each_has_a_help_of_its_own(what):
    job = benchmark(what, "--help")
    assert job.returncode == 0
    assert job.stdout.startswith(f"usage: benchmark.py {what} ")


def test_a_wrong_key_is_told_of_before_anything_is_trained(tmp_path):
    job = benchmark("schedules", "task=mrpc", "sed=1", "--output", tmp_path / "runs")
    assert job.returncode == 2
    assert "did you mean seed?" in job.stderr
    assert not (tmp_path / "runs").exists()


def test_the_speed_of_the_search_for_alphas():
    result = figures(benchmark("alphas", "--members", 3, "--examples", 50, "--repeat", 1))
    assert [row["metric"] for row in result["rows"]] == ["accuracy", "matthews", "pearson"]
    for row in result["rows"]:
        assert row["evaluations_per_second"] > 0
        assert row["found"] >= row["uniform"]
    job = benchmark("alphas", "--members", 0)
    assert job.returncode == 2
    assert "is not a whole number above 0" in job.stderr


@pytest.mark.slow  # a process for each model and engine, all of which import torch
@pytest.mark.skipif(find_spec("onnx") is None, reason="needs the extra onnx")
def test_the_speed_of_packed_models(tmp_path, tiny_checkpoint):
    config = BertConfig.from_pretrained(tiny_checkpoint, max_position_embeddings=128)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, tmp_path / "encoder")
    options = ("--threads", 1, "--repeat", 1, "--members", 1, "--kinds", "1-1-4")
    job = benchmark("infer", *options, "--model", tmp_path / "encoder", "--output", tmp_path)
    result = figures(job)
    measured = {(row["engine"], row["model"]) for row in result["rows"]}
    assert {("torch", "teacher fp32"), ("torch", "1-1-4"), ("onnxruntime", "1-1-4")} <= measured
    assert len(result["rows"]) == 3 * len(measured)
    for row in result["rows"]:
        assert row["ms"] > 0 and row["peak_mib"] > row["model_mib"]
        assert row["ratio"] == 1 or "teacher" not in row["model"]
    sizes = {row["model"]: row["file_mb"] for row in result["rows"]}
    assert sizes["1-1-4"] <= sizes["1-1-4, int8 file"]
    assert Path(result["picture"]).stat().st_size > 0
    assert benchmark("infer", "--kinds", "1-1").returncode == 2


@pytest.mark.cluster
@pytest.mark.slow  # four runs, for a benchmark
def test_the_cost_of_the_driver(tmp_path):
    job = benchmark("control", "--members", 2, "--rounds", 2, "--output", tmp_path / "runs")
    result = figures(job)
    assert [row["members"] for row in result["rows"]] == [2]
    assert all(row["driver_seconds"] > 0 for row in result["rows"])
    assert Path(result["picture"]).stat().st_size > 0
    rounds = {path.name for path in (tmp_path / "runs" / "0002" / "members").iterdir()}
    assert rounds == {f"{i:03d}{end}" for i in range(2) for end in ("", "-round-0")}


@pytest.mark.slow
def test_the_same_members_under_each_schedule(tiny_run, tmp_path):
    settings = [*tiny_run, "member.epochs=2", "ensemble.floor=1"]
    job = benchmark("schedules", *settings, "--seeds", 1, "--output", tmp_path / "runs")
    result = figures(job)
    outcomes = {outcome["schedule"]: outcome for outcome in result["outcomes"]}
    assert list(outcomes) == ["sequential", "sequential-all-cpus", "pipelined", "parallel"]
    # Every member is trained with uniform weights, and so the schedule changes no bit.
    assert outcomes["pipelined"]["ensemble"] == outcomes["sequential"]["ensemble"]
    assert result["ratios"].keys() == {
        *("pipelined/sequential", "parallel/sequential", "pipelined/sequential-all-cpus")
    }
    stages = tmp_path / "runs" / "seed-1" / "stages"
    assert not (stages / "members").exists()
    assert "member" not in (stages / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_members_of_each_kind_side_by_side(tiny_run, tmp_path):
    kinds = ["1-1-8", "1-1-1-bit-through-2"]
    job = benchmark(
        *("kinds", *tiny_run, "--kinds", *kinds, "--seeds", 1, "--output", tmp_path / "runs")
    )
    result = figures(job)
    assert [outcome["kind"] for outcome in result["outcomes"]] == kinds
    split, binary = result["outcomes"]
    assert split["teacher"] == binary["teacher"], "they have it in common"
    assert len(binary["members"]) == len(binary["ensembles"]) == 2
    assert binary["cost"]["bit_operations"] < split["cost"]["bit_operations"]
    home = tmp_path / "runs" / "seed-1" / "1-1-1-bit-through-2"
    assert {path.name for path in home.glob("binary-*")} == {"binary-1-1-2", "binary-1-1-1"}
