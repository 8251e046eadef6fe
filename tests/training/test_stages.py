from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bebert_ray.config import Config, load_config
from bebert_ray.data.columns import Columns
from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import TASKS
from bebert_ray.deploy.size import model_size
from bebert_ray.models.bert import find_checkpoint, load_model, load_weights
from bebert_ray.storage import Artifact
from bebert_ray.training import stages
from bebert_ray.training.fit import Progress, predict
from bebert_ray.training.stages import (
    STAGES,
    Splits,
    Work,
    activation_bits,
    load_logits,
    run_stage,
    train_member,
    train_teacher,
)

N = 24
QUICK = [
    *(f"{stage}.epochs=1" for stage in ("teacher", "half", "ternary", "member")),
    *(f"{stage}.batch_size=8" for stage in ("teacher", "half", "ternary", "member")),
    "teacher.learning_rate=1e-3",  # in so few steps, enough that the outputs differ at 4 bits
    "ternary.hidden_epochs=1",
    "training.dropout=0.1",
]
CASES = [("sst2", "1-1-8"), ("stsb", "1-1-4")]
EXAMPLES = {"train": N, "selection": 10, "dev": 12}


@dataclass
class Run:
    """A finished chain of stages."""

    work: Work
    artifacts: dict[str, Artifact]
    reports: list[Progress]

    @property
    def splits(self) -> dict[str, Columns]:
        return self.work.splits.named()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def run(
    request: Any,
    tmp_path_factory: Any,
    tiny_checkpoint: Path,
    examples: Callable[..., Columns],
) -> Run:
    name, bits = request.param
    task = TASKS[name]
    columns = {
        split: examples(n, regression=task.is_regression, seed=i)
        for i, (split, n) in enumerate(EXAMPLES.items())
    }
    config = configure(f"task={name}", f"bits={bits}")
    reports: list[Progress] = []
    work = Work(
        config,
        Splits(task, columns["train"], columns["selection"], {"dev": columns["dev"]}),
        find_checkpoint(str(tiny_checkpoint)),
        tmp_path_factory.mktemp("run"),
        reports.append,
    )
    artifacts = {}
    for stage, train in STAGES.items():
        inputs = {"stage": stage}
        artifacts[stage] = run_stage(
            work, work.directory / stage, stage, inputs, lambda train=train: train(work)
        )
    return Run(work, artifacts, reports)


def configure(*overrides: str) -> Config:
    return load_config(None, [*QUICK, *overrides])


def with_config(work: Work, *overrides: str) -> Work:
    config = configure(f"task={work.config.task}", f"bits={work.config.bits}", *overrides)
    return replace(work, config=config)


def some_weights(zeros: bool = True) -> np.ndarray:
    rng = np.random.default_rng(5)
    weight = rng.random(N)
    if zeros:
        weight *= rng.random(N) > 0.4
    return weight / weight.sum()


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)


def test_the_stages_in_order() -> None:
    assert list(STAGES) == ["teacher", "half", "ternary", "split"]


def test_artifacts_hold_the_model_its_logits_and_its_scores(run: Run) -> None:
    task = run.work.splits.task
    for stage, artifact in run.artifacts.items():
        assert (artifact.stage, artifact.path) == (stage, run.work.directory / stage)
        files = {file.name for file in artifact.path.iterdir()}
        tensors = {"model.safetensors", "logits.safetensors"}
        assert files == tensors | {"config.json", "artifact.json"}
        assert set(artifact.facts) == {"scores", "bits", "seconds", "versions"}
        assert {"bebert_ray", "torch", "transformers"} <= set(artifact.facts["versions"])
        assert artifact.facts["seconds"] > 0
        model = load_model(artifact.path)
        assert artifact.facts["bits"] == model_size(model).bits
        logits = load_logits(artifact.path)
        assert set(logits) == set(EXAMPLES) == set(artifact.facts["scores"])
        for name, columns in run.splits.items():
            assert logits[name].shape == (len(columns), task.num_labels)
            again = predict(model, columns, run.work.config.training.eval_batch_size)
            assert np.array_equal(logits[name], again)
            assert artifact.facts["scores"][name] == evaluate(task, logits[name], columns.labels)


def test_the_models_are_what_their_stage_says(run: Run) -> None:
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
    assert model_size(models["split"]).bits < model_size(models["half"]).bits / 2


def test_the_split_model_says_what_the_ternary_one_does_to_the_bit(run: Run) -> None:
    ternary, binary = (load_logits(run.work.directory / stage) for stage in ("ternary", "split"))
    assert all(np.array_equal(ternary[name], binary[name]) for name in EXAMPLES)
    assert ternary["dev"].std() > 0


def test_fits_are_reported(run: Run) -> None:
    scored = [progress for progress in run.reports if progress.score is not None]
    assert len(scored) == 3  # teacher, half and the second part of ternary
    assert len(run.reports) >= 4


def test_a_stage_is_the_same_each_time(run: Run) -> None:
    torch.manual_seed(99)
    again = train_teacher(run.work).state_dict()
    assert same_bits(again, load_weights(run.work.directory / "teacher"))
    other = replace(run.work, config=replace(run.work.config, seed=43))
    assert not same_bits(train_teacher(other).state_dict(), again)


def test_each_part_of_a_run_has_its_own_seed(run: Run) -> None:
    work = run.work
    other = replace(work, config=replace(work.config, seed=43))
    parts = [("teacher",), ("half",), ("member", 0), ("member", 1), ("member", 11)]
    seeds = {each.seed(*part) for each in (work, other) for part in parts}
    assert len(seeds) == 2 * len(parts)
    assert work.seed("member", 1) == work.seed("member", 1) < 2**32


@pytest.mark.parametrize("strategy", ["A", "B", "C"])
@pytest.mark.parametrize("mode", ["resample", "loss"])
def test_members(run: Run, tmp_path: Path, strategy: str, mode: str) -> None:
    work = with_config(run.work, f"ensemble.strategy={strategy}", f"ensemble.sample_weight={mode}")
    before = load_weights(work.directory / "split")
    heard: list[Progress] = []
    work = replace(work, report=heard.append)
    weight = some_weights()
    inputs = {"member": 0}
    artifact = run_stage(
        work, tmp_path / "000", "member", inputs, lambda: train_member(work, weight, 0)
    )
    trained = load_weights(artifact.path)
    assert list(trained) == list(before)
    assert not same_bits(trained, before)
    assert load_model(artifact.path).config.weights == "binary"
    assert {name: len(logits) for name, logits in load_logits(artifact.path).items()} == EXAMPLES
    fits = [progress.epochs for progress in heard if progress.step == progress.steps]
    assert len(fits) == (2 if strategy == "C" else 1)
    assert same_bits(load_weights(work.directory / "split"), before)

    assert same_bits(train_member(work, weight, 0).state_dict(), trained)
    assert not same_bits(train_member(work, weight, 1).state_dict(), trained)
    assert not same_bits(train_member(work, weight[::-1].copy(), 0).state_dict(), trained)


@pytest.mark.parametrize("mode", ["resample", "loss"])
def test_members_know_nothing_of_examples_of_weight_zero(run: Run, mode: str) -> None:
    work = with_config(run.work, f"ensemble.sample_weight={mode}")
    weight, train = some_weights(), work.splits.train

    def trained(poisoned: np.ndarray) -> dict[str, Tensor]:
        labels = np.where(poisoned, 1 - train.labels, train.labels).astype(train.labels.dtype)
        columns = replace(train, labels=labels)
        spoilt = replace(work, splits=replace(work.splits, train=columns))
        return train_member(spoilt, weight, 0).state_dict()

    clean = trained(np.zeros(N, bool))
    assert same_bits(trained(weight == 0), clean)
    assert not same_bits(trained(weight == weight.max()), clean)


@pytest.mark.parametrize(
    ("mode", "equal", "draws", "in_loss"),
    [
        ("resample", False, True, False),
        ("resample", True, False, False),  # every example once: nothing to be gained by drawing
        ("loss", False, False, True),
        ("loss", True, False, True),
    ],
)
def test_weights_go_to_the_draw_or_to_the_loss(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    equal: bool,
    draws: bool,
    in_loss: bool,
) -> None:
    work = with_config(run.work, f"ensemble.sample_weight={mode}")
    weight = np.full(N, 1 / N) if equal else some_weights(zeros=False)
    seen: dict[str, Any] = {}

    def label_loss(_: Any, sample_weight: Tensor | None) -> Callable[..., Tensor]:
        seen["loss"] = sample_weight
        return lambda _: torch.zeros(())

    monkeypatch.setattr(stages, "label_loss", label_loss)
    monkeypatch.setattr(stages, "fit", lambda *_, **named: seen.update(named))
    train_member(work, weight, 0)
    assert (seen["sample_weight"] is not None) == draws
    assert (seen["loss"] is not None) == in_loss
    if draws:
        assert np.array_equal(seen["sample_weight"], weight)
    if in_loss:
        assert seen["loss"].mean().item() == pytest.approx(1)
        np.testing.assert_allclose(seen["loss"].numpy() / N, weight, rtol=1e-6)


def test_the_half_model_keeps_what_the_teacher_needs_most(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    narrow_ = stages.narrow_
    monkeypatch.setattr(stages, "narrow_", lambda *given: (asked.append(given), narrow_(*given)))
    STAGES["half"](run.work)
    (_, width, ranks) = asked[0]
    assert width == 0.5
    assert all(layer.max() > 0 for layer in (*ranks.heads, *ranks.neurons))
    asked.clear()
    whole = STAGES["half"](with_config(run.work, "width=1"))
    assert not asked
    assert whole.config.width == 1.0
