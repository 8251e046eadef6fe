"""The jobs that look at a packed model, and write it for other engines."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import export
import inspect_model
import pytest

from bebert_ray.cli.common import run_job


@pytest.fixture
def job(capsys):
    """Runs a job in this process: its exit code, and what it printed."""

    def job(main, *arguments):
        code = run_job(lambda: main([str(each) for each in arguments]))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return job


@pytest.fixture(scope="module")
def _packed(tmp_path_factory, tiny_checkpoint):
    import torch

    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder, load_tokenizer
    from bebert_ray.nn.split import split_, ternarize_
    from bebert_ray.packed import packed_model

    checkpoint = find_checkpoint(str(tiny_checkpoint))
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        member = load_encoder(checkpoint, 2, dropout=0.0)
        ternarize_(member, 8)
        split_(member)
        members.append(member)
    directory = tmp_path_factory.mktemp("runs") / "run" / "model"
    load_tokenizer(checkpoint).save_pretrained(directory)
    packed_model(members, [1.0, 2.0], ("no", "yes"), ["text"]).save_pretrained(directory)
    return directory


@pytest.fixture
def packed(_packed, tmp_path):
    """A packed model of two members, where a run would have it."""
    return shutil.copytree(_packed.parent, tmp_path / "run") / "model"


def test_a_packed_model_and_its_run_are_shown_with_the_bytes_on_disk(job, packed):
    code, out, _ = job(inspect_model.main, packed)
    assert code == 0
    assert "one member, a sentence of 64 tokens" in out
    assert "model.safetensors on disk, MB" in out
    assert job(inspect_model.main, packed.parent)[1] == out
    _, out, _ = job(inspect_model.main, packed, "--json", "--tokens", 10)
    figures = json.loads(out)
    assert figures["tokens"] == 10
    assert figures["members"] == 2
    assert figures["files"]["model.safetensors"] == (packed / "model.safetensors").stat().st_size


def test_a_configuration_alone_will_do(job):
    config = Path(__file__).parents[2] / "configs" / "mrpc.yaml"
    arguments = ["--config", config, "--model-size", "bert-base", "--json"]
    code, out, _ = job(inspect_model.main, *arguments, "ensemble.members=2")
    assert code == 0
    figures = json.loads(out)
    assert figures["ensemble"]["bytes"] < figures["full"]["bytes"] / 12
    assert figures["files"] is None


def test_what_is_no_model_is_refused(job, packed, tmp_path):
    assert "neither a packed model nor a run" in job(inspect_model.main, tmp_path)[2]
    with (packed / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    code, out, error = job(inspect_model.main, packed)
    assert (code, out) == (2, "")
    assert "model.safetensors is cut off" in error
    assert job(export.main, packed, tmp_path / "model.onnx")[0] == 2
    code, _, error = job(inspect_model.main, "--config", "none.yaml")
    assert code == 2
    assert "none.yaml" in error


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--model-size", "bert-base"]])
def test_a_wrong_command_line_ends_with_2(job, arguments):
    with pytest.raises(SystemExit) as caught:
        inspect_model.main(arguments)
    assert caught.value.code == 2


@pytest.mark.skipif(find_spec("onnx") is None, reason="needs the extra onnx")
def test_a_packed_model_is_written_as_onnx(job, packed, tmp_path):
    sizes = {}
    for weights, engine in (("bits", "onnxruntime"), ("int8", "onnxruntime"), ("bits", "openvino")):
        path = tmp_path / f"{weights}-{engine}.onnx"
        options = ("--weights", weights, "--engine", engine)
        code, out, _ = job(export.main, packed.parent, path, *options)
        assert code == 0
        assert out == f"{path}: {path.stat().st_size / 1e6:.2f} MB\n"
        sizes[weights, engine] = path.stat().st_size
    assert sizes["bits", "onnxruntime"] < sizes["int8", "onnxruntime"]
    assert sizes["bits", "onnxruntime"] != sizes["bits", "openvino"]
