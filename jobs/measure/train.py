"""What a training step costs, of a binary member and of the ternary model before it is split.

Both are measured with and without a compiler, beside the model that they replace.

Each model has a process of its own. The processes take turns step by step, so that other load on
the machine slows all of them alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure.contestants import Contestant, in_process
from measure.untrained import TERNARY, untrained

EXAMPLES, TOKENS, LABELS = 32, 64, 2


def train(steps: int, warmup: int, bits: str) -> dict[str, Any]:
    """A training step of a binary member against those of transformers' own full-width model.

    Args:
        steps: measured steps of each contestant.
        warmup: steps before these.
        bits: of the member, such as 1-1-4.

    Returns:
        Medians: `step_ratio` (member / baseline), `step_ms` of each, `peak_rss_mib` of each
        process, `first_step_s` of each, which compiles. `member` runs as a run on this machine
        would by default, `member_eager` without a compiler; so does `ternary`, distilled in hidden
        states and attention. `baseline` is transformers' model in fp32 with AdamW as it is,
        `baseline_same_malloc` the same in a process with the member's memory settings, and
        `baseline_bf16_fused` under bf16 autocast with fused AdamW, where the machine multiplies
        bf16; else `baseline_fused`, in fp32.
    """
    from bebert_ray.training.precision import fast_precision

    precision = fast_precision(gpu=0)
    from bebert_ray.cluster.worker import ENVIRONMENT

    with tempfile.TemporaryDirectory() as scratch:
        split = Path(scratch) / "split"
        in_process(_make_member, {}, split, bits)
        fused = "baseline_bf16_fused" if precision == "bf16" else "baseline_fused"
        contestants = {
            "member": Contestant(_member_step, ENVIRONMENT, split, True),
            "member_eager": Contestant(_member_step, ENVIRONMENT, split, False),
            "baseline": Contestant(_baseline_step, {}, "fp32", False),
            "baseline_same_malloc": Contestant(_baseline_step, ENVIRONMENT, "fp32", False),
            fused: Contestant(_baseline_step, ENVIRONMENT, precision, True),
        }
        if bits in TERNARY:
            contestants["ternary"] = Contestant(_ternary_step, ENVIRONMENT, bits, True)
            contestants["ternary_eager"] = Contestant(_ternary_step, ENVIRONMENT, bits, False)
        times: dict[str, list[float]] = {name: [] for name in contestants}
        first: dict[str, float] = {}
        for turn in range(warmup + steps):
            for name, contestant in contestants.items():
                seconds = contestant.step()
                first.setdefault(name, seconds)
                if turn >= warmup:
                    times[name].append(seconds)
            print(f"turn {turn + 1}/{warmup + steps}", file=sys.stderr)
        peaks = {name: contestant.stop() for name, contestant in contestants.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "benchmark": "train",
        "bits": bits,
        "batch": [EXAMPLES, TOKENS],
        "threads": 1,
        "steps": steps,
        "precision": precision,
        "step_ratio": round(medians["member"] / medians["baseline"], 4),
        "step_ratio_same_malloc": round(medians["member"] / medians["baseline_same_malloc"], 4),
        "step_ms": {name: round(1e3 * seconds, 1) for name, seconds in medians.items()},
        "first_step_s": {name: round(seconds, 1) for name, seconds in first.items()},
        "peak_rss_mib": {name: round(peak, 1) for name, peak in peaks.items()},
    }


def _batch() -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    ids = torch.randint(1000, 30_000, (EXAMPLES, TOKENS))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "labels": torch.randint(0, LABELS, (EXAMPLES,)),
        "index": torch.arange(EXAMPLES),
    }


def _make_member(directory: Path, bits: str) -> None:
    """Leave the model that a member starts from, as its stage leaves it."""
    from bebert_ray.nn.bert import save_model

    directory.mkdir()
    save_model(_untrained(bits), directory)


def _untrained(bits: str, split: bool = True) -> Any:
    from bebert_ray.training.losses import inputs_of

    return untrained("bundled", bits, inputs_of(_batch()), LABELS, split)


def _member_step(checkpoint: Path, compile: bool) -> Callable[[], object]:
    from bebert_ray.nn.bert import load_model
    from bebert_ray.training.losses import label_loss

    model = load_model(checkpoint).train()
    return _step(model, label_loss(model), compile)


def _ternary_step(bits: str, compile: bool) -> Callable[[], object]:
    from bebert_ray.nn.bert import without_dropout
    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
    from bebert_ray.nn.narrow import narrow_
    from bebert_ray.training.losses import hidden_loss

    teacher = without_dropout(load_encoder(find_checkpoint("bundled"), LABELS, dropout=0.0))
    narrow_(teacher, 0.5)
    model = _untrained(bits, split=False).train()
    return _step(model, hidden_loss(model, teacher, "scores"), compile)


def _step(model: Any, loss: Any, compile: bool) -> Callable[[], object]:
    from bebert_ray.nn.compiled import find_compiler, use_compiler_
    from bebert_ray.training.optimizers import make_optimizers
    from bebert_ray.training.precision import fast_precision
    from bebert_ray.training.settings import FitSettings
    from bebert_ray.training.step import train_step

    use_compiler_(compile and find_compiler() is not None)
    settings = FitSettings(epochs=1, learning_rate=1e-4, precision=fast_precision(gpu=0))
    optimizers, batch = make_optimizers(model, settings), _batch()
    return lambda: train_step(model, loss, batch, optimizers, settings)


def _baseline_step(precision: str, fused: bool) -> Callable[[], object]:
    import torch
    from transformers import BertForSequenceClassification

    from bebert_ray.nn.checkpoint import find_checkpoint
    from bebert_ray.training.precision import autocast

    path = find_checkpoint("bundled").path
    model = BertForSequenceClassification.from_pretrained(path, num_labels=LABELS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=fused or None)
    batch = _batch()
    del batch["index"]

    def step() -> None:
        optimizer.zero_grad()
        with autocast(torch.device("cpu"), precision):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()

    return step
