"""The chain of stages: what each makes, and that a process that dies in one costs nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bebert_ray.data.metrics import evaluate
from bebert_ray.deploy.accounting import costs, total
from bebert_ray.models.bert import load_model, load_weights
from bebert_ray.storage import Location
from bebert_ray.training import stages
from bebert_ray.training.fit import predict
from bebert_ray.training.stages import STAGES, activation_bits, train_teacher
from bebert_ray.training.work import leave_logits, load_logits


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)


def test_the_stages_in_order() -> None:
    assert list(STAGES) == ["teacher", "half", "ternary", "split"]


def test_artifacts_hold_the_model_its_logits_and_its_scores(run: Any) -> None:
    task = run.work.splits.task
    for stage, artifact in run.artifacts.items():
        assert (artifact.stage, artifact.path) == (stage, run.work.directory.local / stage)
        files = {file.name for file in artifact.path.iterdir()}
        tensors = {"model.safetensors", "logits.safetensors"}
        assert files == tensors | {"config.json", "artifact.json"}
        assert set(artifact.facts) == {"scores", "bits", "seconds", "versions"}
        assert {"bebert_ray", "torch", "transformers"} <= set(artifact.facts["versions"])
        assert artifact.facts["seconds"] > 0
        model = load_model(artifact.path)
        assert artifact.facts["bits"] == 8 * total(costs(model)).bytes
        logits = load_logits(artifact.path)
        assert set(logits) == set(run.sizes) == set(artifact.facts["scores"])
        for name, columns in run.work.splits.named().items():
            assert logits[name].shape == (len(columns), task.num_labels)
            again = predict(model, columns, run.work.config.training.eval_batch_size)
            assert np.array_equal(logits[name], again)
            assert artifact.facts["scores"][name] == evaluate(task, logits[name], columns.labels)


def test_the_models_are_what_their_stage_says(run: Any) -> None:
    bits = activation_bits(run.work.config.bits)
    models = {stage: load_model(artifact.path) for stage, artifact in run.artifacts.items()}
    shapes = {
        stage: (model.config.width, model.config.weights, model.config.activation_bits)
        for stage, model in models.items()
    }
    assert shapes == {
        "teacher": (1.0, "full", None),
        "half": (0.5, "full", None),
        "ternary": (0.5, "ternary", bits),
        "split": (0.5, "binary", bits),
    }
    heads = {
        stage: [layer.attention.self.num_attention_heads for layer in model.bert.encoder.layer]
        for stage, model in models.items()
    }
    assert heads == {"teacher": [4, 4], "half": [2, 2], "ternary": [2, 2], "split": [2, 2]}
    dropout = {stage: model.config.hidden_dropout_prob for stage, model in models.items()}
    assert dropout == {"teacher": 0.1, "half": 0.1, "ternary": 0, "split": 0}
    assert total(costs(models["split"])).bytes < total(costs(models["half"])).bytes / 2


def test_the_split_model_says_what_the_ternary_one_does_to_the_bit(run: Any) -> None:
    ternary, binary = (load_logits(run.artifacts[stage].path) for stage in ("ternary", "split"))
    assert all(np.array_equal(ternary[name], binary[name]) for name in run.sizes)
    assert ternary["dev"].std() > 0


def test_fits_are_reported(run: Any) -> None:
    scored = [progress for progress in run.heard if progress.score is not None]
    assert len(scored) == 3  # teacher, half and the second part of ternary
    assert len(run.heard) >= 4


def test_a_stage_is_the_same_each_time(run: Any) -> None:
    torch.manual_seed(99)
    again = train_teacher(run.new()).state_dict()
    assert same_bits(again, load_weights(run.artifacts["teacher"].path))
    other = train_teacher(run.new("seed=43")).state_dict()
    assert not same_bits(other, again)


def test_each_part_of_a_run_has_its_own_seed(run: Any) -> None:
    work = run.work
    other = replace(work, config=replace(work.config, seed=43))
    parts = [("teacher",), ("half",), ("member", 0), ("member", 1), ("member", 11)]
    seeds = {each.seed(*part) for each in (work, other) for part in parts}
    assert len(seeds) == 2 * len(parts)
    assert work.seed("member", 1) == work.seed("member", 1) < 2**32


# From the beginning of a stage to its end there are so many checkpoints, one after each step.
CHECKPOINTS = {"teacher": 3, "half": 3, "ternary": 6}


@pytest.mark.parametrize("after", range(1, 7))
@pytest.mark.parametrize("stage", ["teacher", "half", "ternary"])
def test_a_stage_that_died_anywhere_goes_on_to_the_same_bits(
    run: Any, stage: str, after: int
) -> None:
    """The ternary model also between its two phases, and in the second."""
    train, work = STAGES[stage], run.new()
    if after > CHECKPOINTS[stage]:
        assert not run.dies(work, train, after), "so many checkpoints there should not be"
        return
    assert run.dies(work, train, after)
    later, heard = run.later(work)
    weights = train(later).state_dict()
    assert same_bits(weights, load_weights(run.artifacts[stage].path))
    # What is done is not done again.
    phases = [progress.step for progress in heard if progress.step == progress.steps]
    assert len(phases) == (CHECKPOINTS[stage] - after + 2) // 3
    assert heard == [] or heard[0].step <= 3


def test_the_half_model_keeps_what_the_teacher_needs_most(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    narrow_ = stages.narrow_
    monkeypatch.setattr(stages, "narrow_", lambda *given: (asked.append(given), narrow_(*given)))
    STAGES["half"](run.new())
    (_, width, ranks) = asked[0]
    assert width == 0.5
    assert all(layer.max() > 0 for layer in (*ranks.heads, *ranks.neurons))
    asked.clear()
    whole = STAGES["half"](run.new("width=1"))
    assert not asked
    assert whole.config.width == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_round_leaves_what_boosting_needs_of_it(run: Any, tmp_path: Path, precision: str) -> None:
    work = run.new(f"training.precision={precision}")
    model, place = work.parent("split"), Location.of(tmp_path / "000-round-0")
    artifact, logits = leave_logits(work, model, place, "round", {"member": 0})
    assert {file.name for file in tmp_path.glob("*/*")} == {"artifact.json", "logits.safetensors"}
    assert (artifact.stage, artifact.inputs) == ("round", {"member": 0})
    kept = load_logits(artifact.path)
    assert set(kept) == set(logits) == {"train", "selection"}, "dev is for the end"
    columns, task = work.splits.named(), work.splits.task
    for name, values in logits.items():
        assert np.array_equal(kept[name], values)
        assert np.array_equal(values, predict(model, columns[name], 128, precision))
        exact = predict(model, columns[name])
        assert np.array_equal(values, exact) == (precision == "fp32"), "as fast as training is"
        np.testing.assert_allclose(values, exact, atol=0.1)
        scores = evaluate(task, values, columns[name].labels)
        assert artifact.facts["scores"][name] == scores
