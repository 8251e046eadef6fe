"""What a training step of a binary member costs, beside one of the model it replaces.

Each contestant has a process of its own, and they take turns step by step, so that whatever else
the machine does slows all of them alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure.contestants import Contestant, in_process

EXAMPLES, TOKENS, LABELS = 32, 64, 2


def train(steps: int, warmup: int, bits: str) -> dict[str, Any]:
    """A training step of a binary member against one of transformers' own full-width fp32 model.

    Args:
        steps: measured steps of each contestant.
        warmup: steps before these.
        bits: of the member, such as 1-1-4.

    Returns:
        Medians: `step_ratio` (member / baseline), `step_ms` of each, `peak_rss_mib` of each
        process. `baseline_same_malloc` is the baseline in a process with the member's memory
        settings.
    """
    from bebert_ray.cluster.worker import ENVIRONMENT

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "split"
        in_process(_make_member, {}, checkpoint, bits)
        contestants = {
            "member": Contestant(_member_step, ENVIRONMENT, checkpoint),
            "baseline": Contestant(_baseline_step, {}),
            "baseline_same_malloc": Contestant(_baseline_step, ENVIRONMENT),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(warmup + steps):
            for name, contestant in contestants.items():
                seconds = contestant.step()
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
        "step_ratio": round(medians["member"] / medians["baseline"], 4),
        "step_ratio_same_malloc": round(medians["member"] / medians["baseline_same_malloc"], 4),
        "step_ms": {name: round(1e3 * seconds, 1) for name, seconds in medians.items()},
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
    """The bundled encoder at half width, ternarized and split, as the split stage leaves it."""
    from bebert_ray.config.bits import Bits
    from bebert_ray.nn.bert import save_model, without_dropout
    from bebert_ray.nn.checkpoint import find_checkpoint, load_encoder
    from bebert_ray.nn.narrow import narrow_
    from bebert_ray.nn.quantizers import calibrate_
    from bebert_ray.nn.split import split_, ternarize_
    from bebert_ray.training.losses import inputs_of

    model = load_encoder(find_checkpoint("bundled"), LABELS, dropout=0.0)
    narrow_(without_dropout(model), 0.5)
    ternarize_(model, Bits.parse(bits).activations)
    calibrate_(model, inputs_of(_batch()))
    split_(model)
    directory.mkdir()
    save_model(model, directory)


def _member_step(checkpoint: Path) -> Callable[[], object]:
    from bebert_ray.nn.bert import load_model
    from bebert_ray.training.fit import FitSettings, make_optimizers, train_step
    from bebert_ray.training.losses import label_loss

    model = load_model(checkpoint).train()
    settings = FitSettings(epochs=1, learning_rate=1e-4)
    optimizers, loss, batch = make_optimizers(model, settings), label_loss(model), _batch()
    return lambda: train_step(model, loss, batch, optimizers, settings)


def _baseline_step() -> Callable[[], object]:
    import torch
    from transformers import BertForSequenceClassification

    from bebert_ray.nn.checkpoint import find_checkpoint

    path = find_checkpoint("bundled").path
    model = BertForSequenceClassification.from_pretrained(path, num_labels=LABELS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    batch = _batch()
    del batch["index"]

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    return step
