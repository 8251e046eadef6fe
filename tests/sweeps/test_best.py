import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bebert_ray.boosting.alphas import Weighting
from bebert_ray.boosting.vote import combine
from bebert_ray.cluster.worker import Worker
from bebert_ray.config import load_config
from bebert_ray.data.metrics import evaluate
from bebert_ray.data.tasks import Task
from bebert_ray.errors import RunError
from bebert_ray.pipeline.driver import make_plan
from bebert_ray.pipeline.prepare import prepare
from bebert_ray.storage import Location, fetch
from bebert_ray.sweeps.best import (
    AS_TRAINED,
    SELECTED,
    SWEPT,
    UNIFORM,
    Outcome,
    _members,
    conclude,
    keep_best,
)
from bebert_ray.sweeps.records import Record, read_records
from bebert_ray.sweeps.report import (
    ensemble_rows,
    everything,
    page,
    print_outcome,
    summary,
    trial_rows,
)
from bebert_ray.training.work import load_logits

from .conftest import Trained, train_sweep


@pytest.fixture(scope="module")
def outcome(trained: Trained) -> Outcome:
    return conclude(trained.sweep, trained.shared, trained.splits, trained.records)


def snapshot(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def held_out(trained: Trained, number: int, member: str) -> np.ndarray:
    directory = Path(trained.sweep.config.output) / "trials" / f"{number:03d}" / "members"
    return load_logits(directory / member)["selection"]


def test_the_candidates_are_scored_on_the_held_out_part(trained: Trained, outcome: Outcome) -> None:
    by_name = {each.name: each for each in outcome.candidates}
    assert list(by_name) == [AS_TRAINED, UNIFORM, SWEPT, SELECTED]
    assert by_name[AS_TRAINED].held_out == outcome.best.score
    assert by_name[SWEPT].held_out >= by_name[AS_TRAINED].held_out
    assert by_name[SWEPT].held_out >= by_name[UNIFORM].held_out
    labels = trained.splits["selection"].labels
    for each in outcome.candidates:
        logits = [held_out(trained, t.number, m.name[-3:]) for t, m in each.members]
        scores = combine(np.stack(logits), each.alphas)
        assert evaluate(trained.shared.task, scores, labels)["accuracy"] == each.held_out
        assert sum(each.alphas) == pytest.approx(1)
    best = max(each.held_out for each in outcome.candidates)
    assert outcome.winner.held_out == best
    assert set(outcome.swept) == {0, 1}, "the trial that was stopped has no ensemble of its own"


def test_members_are_selected_from_all_trials_also_those_stopped(
    trained: Trained, outcome: Outcome
) -> None:
    selected = outcome.candidates[-1]
    assert 1 <= len(selected.members) <= 2
    alone = [
        evaluate(
            trained.shared.task,
            held_out(trained, *key),
            trained.splits["selection"].labels,
        )["accuracy"]
        for key in [(0, "000"), (1, "000"), (1, "001"), (2, "000")]
    ]
    assert selected.held_out >= max(alone) - 1e-9


def test_what_is_left(trained: Trained, outcome: Outcome) -> None:
    packing = keep_best(outcome, trained.shared)
    assert packing is not None
    directory = Path(trained.sweep.config.output) / "best"
    kept = json.loads((directory / "ensemble.json").read_text())
    assert [entry["alpha"] for entry in kept["members"]] == outcome.winner.alphas
    for position, (_, member) in enumerate(outcome.winner.members):
        copy = directory / "members" / f"{position:03d}"
        assert fetch(copy).digest == member.artifact.digest
    prepared, step = packing
    assert step.path == prepared.directory / "model"
    assert step.inputs["alphas"] == outcome.winner.alphas

    before = snapshot(directory)
    again = keep_best(outcome, trained.shared)
    assert again is not None
    assert again[1].inputs == step.inputs
    assert snapshot(directory) == before


def copy_of(trained: Trained, output: Path) -> Trained:
    shutil.copytree(trained.sweep.config.output, output)
    sweep = replace(trained.sweep, config=replace(trained.sweep.config, output=str(output)))
    shared = replace(
        trained.shared, config=sweep.shared(), directory=Location.of(output / "shared")
    )
    return replace(trained, sweep=sweep, shared=shared)


def test_a_damaged_best_ensemble_is_mended(trained: Trained, tmp_path: Path) -> None:
    copy = copy_of(trained, tmp_path / "sweep")
    outcome = conclude(copy.sweep, copy.shared, copy.splits, copy.records)
    keep_best(outcome, copy.shared)
    model = tmp_path / "sweep" / "best" / "members" / "000" / "model.safetensors"
    before = model.read_bytes()
    model.unlink()
    assert keep_best(outcome, copy.shared) is not None
    assert model.read_bytes() == before


def test_a_trial_that_has_lost_a_member_is_taken_up_again(trained: Trained, tmp_path: Path) -> None:
    copy = copy_of(trained, tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "trials" / "001" / "members" / "001")
    with pytest.raises(RunError, match="trial 001 was done, and now members are missing"):
        conclude(copy.sweep, copy.shared, copy.splits, copy.records)
    record = read_records(copy.sweep.directory)[1]
    assert (record.state, record.point) == ("running", trained.records[1].point)


def test_members_of_trials_without_an_end_can_be_selected(
    tiny_run: list[str], tmp_path: Path
) -> None:
    trained = train_sweep(
        [
            *tiny_run,
            f"output={tmp_path / 'sweep'}",
            "ensemble.method=bagging",
            "sweep.space.member.learning_rate.loguniform=[1e-4, 1e-2]",
        ],
        [({"member.learning_rate": 1e-3}, 9)],
    )
    assert trained.records[0].members == 2
    shutil.rmtree(tmp_path / "sweep" / "trials" / "000" / "members" / "000")
    failed = replace(trained.records[0], state="failed")
    parents = {
        name: fetch(trained.shared.directory / name)
        for name in ("teacher", "half", "ternary", "split")
    }
    ensemble, members = _members(trained.sweep, trained.shared, trained.splits, parents, failed)
    assert ensemble == []
    assert [member.name for member in members] == ["member 001"]


def test_a_trial_that_is_best_with_other_alphas_is_a_candidate(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = max(trained.records[:2], key=lambda record: record.score or 0)
    other = trained.records[1 - own.number]

    def searched(task: Task, logits: np.ndarray, *_: Any) -> Weighting:
        alphas = np.full(len(logits), 1 / len(logits))
        return Weighting(alphas, 0.99 if len(logits) == other.members else 0.5, 1)

    monkeypatch.setattr("bebert_ray.sweeps.best.search_alphas", searched)
    outcome = conclude(trained.sweep, trained.shared, trained.splits, trained.records)
    names = [each.name for each in outcome.candidates]
    assert names == [AS_TRAINED, UNIFORM, SWEPT, f"{SWEPT} of {other.name}", SELECTED]
    assert {record.number for record, _ in outcome.candidates[3].members} == {other.number}

    outcome = replace(outcome, winner=outcome.candidates[3])
    packed = keep_best(outcome, trained.shared)
    assert packed is not None
    prepared, _ = packed
    assert prepared.config == trained.sweep.trial(other.number, other.point)


def test_the_best_configuration_is_that_of_a_run_whose_members_are_trained(
    trained: Trained, outcome: Outcome
) -> None:
    keep_best(outcome, trained.shared)
    path = Path(trained.sweep.config.output) / "best.yaml"
    plan = make_plan(prepare(load_config(path)))
    assert plan.pop("model") == "run"
    assert set(plan.values()) == {"done"}


def test_the_report(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(outcome, Console(width=160))
    printed = capsys.readouterr().out
    assert "swept alphas" in printed
    assert "stopped" in printed
    figures = json.loads(json.dumps(everything(outcome), allow_nan=False))
    assert figures["best"]["trial"] == outcome.best.number
    assert figures["ensembles"].keys() == {each.name for each in outcome.candidates}
    assert figures["trials"] == {"done": 2, "stopped": 1}
    assert summary(outcome).items() <= everything(outcome).items()
    html = page(outcome)
    assert html.count("data:image/png;base64,") in (3, 5)
    assert "http" not in html, "it needs nothing from elsewhere"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_break_names_and_no_figures(
    outcome: Outcome, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    print_outcome(outcome, Console(width=width, soft_wrap=True))
    printed = capsys.readouterr().out
    for heads, rows in (trial_rows(outcome), ensemble_rows(outcome)):
        assert len({len(row) for row in rows} | {len(heads)}) == 1
        for row in rows:
            assert all(word in printed for cell in row for word in cell.split())


def test_no_trial_with_an_ensemble(trained: Trained) -> None:
    records = [Record(0, {}, "diverged", 0.0, note="the loss became nan")]
    with pytest.raises(RunError, match="trial 000 diverged: the loss became nan"):
        conclude(trained.sweep, trained.shared, trained.splits, records)


def test_sweeps_of_fully_binary_members(tiny_run: list[str], tmp_path: Path) -> None:
    overrides = [
        *tiny_run,
        f"output={tmp_path / 'sweep'}",
        *("bits=1-1-1", "binary.through=[1-1-2]", "member.epochs=2", "export.remainder=fp16"),
        "sweep.trials=2",
        "sweep.space.ensemble.choice=[{schedule: sequential}, {schedule: pipelined}]",
    ]
    trained = train_sweep(
        overrides,
        [({"ensemble": f"schedule={name}"}, 99) for name in ("sequential", "pipelined")],
    )
    assert [record.state for record in trained.records] == ["done", "done"]
    shared = trained.shared.directory.local
    assert (shared / "binary-1-1-1").exists()
    assert not (shared / "split").exists()
    outcome = conclude(trained.sweep, trained.shared, trained.splits, trained.records)
    assert outcome.winner.held_out == max(each.held_out for each in outcome.candidates)
    packing = keep_best(outcome, trained.shared)
    assert packing is not None
    prepared, step = packing
    worker = Worker(
        *(prepared.config, prepared.task, prepared.directory),
        threads=1,
        report=lambda _: None,
    )
    packed, _ = worker.run(
        step, {name: columns.to_arrays() for name, columns in trained.splits.items()}
    )
    assert packed.facts["scores"]["selection"]["accuracy"] == outcome.winner.held_out
