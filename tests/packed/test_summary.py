from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from transformers import BertConfig

from bebert_ray.config import load_config
from bebert_ray.nn.bert import outline
from bebert_ray.nn.costs import costs, total
from bebert_ray.packed.summary import print_summary, stored_bytes, summarize
from bebert_ray.pipeline.costs import member_config


def bert_base(*overrides: str) -> BertConfig:
    return member_config(load_config(None, ["task=mrpc", *overrides]), BertConfig())


@pytest.mark.parametrize("bits", ["1-1-8", "1-1-4", "1-1-2", "1-1-1"])
def test_groups_add_up_to_the_model(bits: str) -> None:
    config = bert_base(f"bits={bits}")
    summary = summarize(config, members=3, float_bits=16)
    every = costs(outline(config), float_bits=16)
    assert total(summary.layers) == total(every)
    assert sum(summary.counts) == len(every)
    assert summary.ensemble == total(every * 3)
    by_name = dict(zip((cost.name for cost in summary.layers), summary.counts, strict=True))
    assert by_name["encoder.layer.*.attention.self.query"] == 12
    assert by_name["classifier"] == 1
    [words] = (c for c in summary.layers if c.name == "embeddings.word_embeddings")
    assert words.weight_bits == 1
    [query] = (c for c in summary.layers if c.name == "encoder.layer.*.attention.self.query")
    assert query.activation_bits == int(bits[-1])


def test_two_packed_members_of_bert_base_are_a_twelfth_of_the_checkpoint() -> None:
    summary = summarize(bert_base(), members=2, float_bits=16)
    assert summary.full.bytes == summary.full.float_bytes == pytest.approx(438e6, rel=0.001)
    assert summary.ensemble.weight_bytes == pytest.approx(33e6, rel=0.01)
    assert summary.ensemble.bytes < summary.full.bytes / 12


def test_more_tokens_cost_more_operations_and_no_bytes() -> None:
    short, long = (summarize(bert_base(), 1, 16, tokens) for tokens in (64, 128))
    assert long.ensemble.bytes == short.ensemble.bytes
    assert long.ensemble.macs > 2 * short.ensemble.macs  # attention grows with the square
    assert long.ensemble.macs < 2.1 * short.ensemble.macs


def test_it_prints_and_is_json(tmp_path: Path) -> None:
    tensors = {
        "a.bits.signs": torch.zeros(30_000_000, dtype=torch.uint8),
        "a.bits.scales": torch.zeros(100_000),
        "a.bias": torch.zeros(800_000, dtype=torch.float16),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(bytes(1_000_000))
    file = (tmp_path / "model.safetensors").stat().st_size
    sizes = {"weights": 30_000_000, "scales": 400_000, "floats": 1_600_000, "file": file}
    assert stored_bytes(tmp_path) == sizes
    summary = summarize(bert_base(), members=2, float_bits=16, directory=tmp_path)
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=120))
    text = out.getvalue()
    assert "2 members against one model in full precision" in text
    assert "FLOPs as the papers count" in text
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "32.00" in lines["less what members have in common, MB"]
    assert "32.00" in lines["model.safetensors on disk, MB"]
    assert "33.00" in lines["all files on disk, MB"]
    assert "1/12.3" in lines["size as counted, MB"]
    figures = json.loads(json.dumps(summary.to_dict()))
    assert figures["ensemble"]["bytes"] == summary.ensemble.bytes
    assert figures["layers"][0]["count"] == 1
