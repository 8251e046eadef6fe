"""The chain of stages: what each makes, and that a process that dies in one costs nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bebert_ray.config.bits import Bits
from bebert_ray.data.metrics import evaluate
from bebert_ray.nn.bert import load_model, load_weights
from bebert_ray.nn.costs import costs, total
from bebert_ray.storage import Location
from bebert_ray.training import stages
from bebert_ray.training.predict import predict
from bebert_ray.training.work import leave_logits, load_logits

from .conftest import rarely


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)


def test_artifacts_hold_the_model_its_logits_and_its_scores(run: Any) -> None:
    task = run.work.splits.task
    for stage, artifact in run.artifacts.items():
        assert (artifact.stage, artifact.path) == (stage, run.work.directory.local / stage)
        files = {file.name for file in artifact.path.iterdir()}
        tensors = {"model.safetensors", "logits.safetensors"}
        assert files == tensors | {"config.json", "artifact.json"}
        assert set(artifact.facts) == {"scores", "bits", "seconds", "versions", "compiled"}
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


def test_the_models_are_what_their_stage_says(split_run: Any) -> None:
    run, bits = split_run, Bits.parse(split_run.work.config.bits).activations
    models = {stage: load_model(artifact.path) for stage, artifact in run.artifacts.items()}
    shapes = {
        stage: (model.config.width, model.config.weights, model.config.activation_bits)
        for stage, model in models.items()
    }
    assert shapes == {
        "teacher": (1.0, "full", None),
        "half": (0.5, "full", None),
        "ternary": (0.5, "ternary", bits),
        "split": (0.5, "split", bits),
    }
    heads = {
        stage: [layer.attention.self.num_attention_heads for layer in model.bert.encoder.layer]
        for stage, model in models.items()
    }
    assert heads == {"teacher": [4, 4], "half": [2, 2], "ternary": [2, 2], "split": [2, 2]}
    dropout = {stage: model.config.hidden_dropout_prob for stage, model in models.items()}
    assert dropout == {"teacher": 0.1, "half": 0.1, "ternary": 0, "split": 0}
    assert total(costs(models["split"])).bytes < total(costs(models["half"])).bytes / 2


def hardly_trained_on(run: Any, scores: Any) -> Any:
    """Work on a teacher of other scores, with a rate that changes next to nothing."""
    splits = run.work.splits
    other = replace(splits, train=replace(splits.train, labels=scores))
    return replace(run.new("teacher.learning_rate=1e-7"), splits=other)


def test_a_teacher_of_scores_starts_at_their_mean(make_run: Any) -> None:
    run = make_run(("task=stsb", "bits=1-1-4"))
    train = run.work.splits.train
    scores = 50 + 10 * train.labels
    work = hardly_trained_on(run, scores)
    assert work.unit == pytest.approx(scores.std())
    predicted = predict(run.train("teacher", work), train, 8)
    assert np.abs(predicted - scores.mean()).max() < 10


def test_scores_train_alike_in_any_unit(make_run: Any) -> None:
    run = make_run(("task=stsb", "bits=1-1-4"))
    losses = []
    for times in (1, 64):  # a power of two, so that all arithmetic is the same
        work = hardly_trained_on(run, times * run.work.splits.train.labels)
        heard: list[Any] = []
        run.train("teacher", replace(work, report=heard.append))
        losses.append([progress.loss for progress in heard])
    assert losses[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_fully_binary_models_are_what_their_stage_says(binary_run: Any) -> None:
    models = {name: load_model(each.path) for name, each in binary_run.artifacts.items()}
    shapes = {
        name: (model.config.width, model.config.weights, model.config.activation_bits)
        for name, model in models.items()
    }
    assert shapes == {
        "teacher": (1.0, "full", None),
        "binary-1-1-2": (1.0, "binary", 2),
        "binary-1-1-1": (1.0, "binary", 1),
    }
    layers = [model.bert.encoder.layer for model in models.values()]
    assert {layer.attention.self.num_attention_heads for each in layers for layer in each} == {4}
    binary, teacher = (total(costs(models[name])) for name in ("binary-1-1-1", "teacher"))
    assert binary.bytes < teacher.bytes / 4
    assert binary.bit_operations < teacher.bit_operations / 100


@pytest.mark.parametrize(
    ("override", "quantizer"),
    [
        ("binary.activations=elastic", "layer.intermediate.dense.input_quantizer.scale"),
        ("binary.attention=softmax", "layer.attention.self.quantizers.probs.scale"),
    ],
)
def test_what_the_options_of_one_bit_activations_bring(
    binary_run: Any, override: str, quantizer: str
) -> None:
    plain = binary_run.train("binary-1-1-1", binary_run.new())
    other = binary_run.train("binary-1-1-1", binary_run.new(override))
    learned = other.get_parameter(f"bert.encoder.{quantizer.replace('layer', 'layer.1', 1)}")
    assert learned.item() not in (0.0, 1.0), "calibrated and trained"
    assert learned.shape == ()
    assert set(dict(other.named_parameters())) > set(dict(plain.named_parameters()))


def test_the_split_model_says_what_the_ternary_one_does_to_the_bit(split_run: Any) -> None:
    run = split_run
    ternary, binary = (load_logits(run.artifacts[stage].path) for stage in ("ternary", "split"))
    assert all(np.array_equal(ternary[name], binary[name]) for name in run.sizes)
    assert ternary["dev"].std() > 0


def test_fits_are_reported(run: Any) -> None:
    scored = [progress for progress in run.heard if progress.score is not None]
    trained = [stage for stage in run.work.kind.stages if stage.section is not None]
    assert len(scored) == len(trained)  # hidden passes have no score
    assert len(run.heard) >= 4


def test_a_stage_is_the_same_each_time(run: Any) -> None:
    torch.manual_seed(99)
    again = run.train("teacher", run.new()).state_dict()
    assert same_bits(again, load_weights(run.artifacts["teacher"].path))
    other = run.train("teacher", run.new("seed=43")).state_dict()
    assert not same_bits(other, again)


def test_each_part_of_a_run_has_its_own_seed(run: Any) -> None:
    work = run.work
    other = replace(work, config=replace(work.config, seed=43))
    parts = [("teacher",), ("half",), ("member", 0), ("member", 1), ("member", 11)]
    seeds = {each.seed(*part) for each in (work, other) for part in parts}
    assert len(seeds) == 2 * len(parts)
    assert work.seed("member", 1) == work.seed("member", 1) < 2**32


# From the beginning of a stage to its end there are so many checkpoints, one after each step.
CHECKPOINTS = {"teacher": 3, "half": 3, "ternary": 6, "binary-1-1-2": 6, "binary-1-1-1": 6}


@pytest.mark.parametrize("after", [1, 4, 6, *rarely(2, 3, 5)])
@pytest.mark.parametrize("stage", ["teacher", "half", "ternary"])
def test_a_stage_that_died_anywhere_goes_on_to_the_same_bits(
    split_run: Any, stage: str, after: int
) -> None:
    """The ternary model also between its two phases, and in the second."""
    check_that_it_goes_on(split_run, stage, after)


@pytest.mark.parametrize("after", [1, 4, 6, *rarely(2, 3, 5)])
@pytest.mark.parametrize("stage", ["binary-1-1-2", "binary-1-1-1"])
def test_so_does_a_fully_binary_one(binary_run: Any, stage: str, after: int) -> None:
    check_that_it_goes_on(binary_run, stage, after)


def check_that_it_goes_on(run: Any, stage: str, after: int) -> None:
    train, work = partial(run.train, stage), run.new()
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
    split_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = split_run
    asked: list[Any] = []
    narrow_ = stages.narrow_
    monkeypatch.setattr(stages, "narrow_", lambda *given: (asked.append(given), narrow_(*given)))
    run.train("half", run.new())
    (_, width, ranks) = asked[0]
    assert width == 0.5
    assert all(layer.max() > 0 for layer in (*ranks.heads, *ranks.neurons))
    asked.clear()
    whole = run.train("half", run.new("width=1"))
    assert not asked
    assert whole.config.width == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_round_leaves_what_boosting_needs_of_it(run: Any, tmp_path: Path, precision: str) -> None:
    work = run.new(f"training.precision={precision}")
    model, place = work.parent(work.kind.trunks[0].start), Location.of(tmp_path / "000-round-0")
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
