from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bebert_ray.cluster.resources import Node
from bebert_ray.config import EnsembleConfig
from bebert_ray.errors import Diverged, RunError, UserError
from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.prepare import open_run
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.storage import Location, fetch
from bebert_ray.sweeps.settings import load_sweep
from bebert_ray.sweeps.trial import TrialReports, run_trial, trial_allotments
from bebert_ray.sweeps.tune import trial_resources

from .conftest import Trained, take_all


def test_a_trial_tells_after_each_member_and_at_the_end(trained: Trained) -> None:
    told = [[(each["trained"], each["state"]) for each in reports] for reports in trained.told]
    assert told == [
        [(1.0, "done")],
        [(1.0, "running"), (2.0, "done")],
        [(1.0, "running")],
    ]
    first, last = trained.told[1]
    assert (first["members"], last["members"]) == (1, 2)
    assert (first["bits"], last["bits"]) == (100, 200)
    assert 0 < first["seconds"] < last["seconds"]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_pipelined_trial_tells_after_each_round_of_all(
    trained: Trained, tmp_path: Path, ahead: bool
) -> None:
    config = replace(
        trained.sweep.config,
        ensemble=EnsembleConfig(members=2, schedule="pipelined", errors="train"),
        member=replace(trained.sweep.config.member, epochs=2),
    )
    directory = Location.of(tmp_path / "run")
    prepared = replace(trained.shared, config=config, directory=directory)
    link_stages(trained.shared.directory.local, prepared.directory.local)
    told: list[dict[str, Any]] = []
    reports = TrialReports(prepared, 100, told.append)
    splits = open_run(prepared)
    run = Run(prepared, splits)
    take_all(prepared, splits, run, reports.on_step, ahead=ahead)
    reports.finish(run)
    assert [(each["trained"], each["members"], each["state"]) for each in told] == [
        (1.0, 2, "running"),
        (2.0, 2, "done"),
    ]
    assert 0 < told[0]["seconds"] < told[1]["seconds"] or ahead


def test_a_trial_that_fails_has_the_worst_score(trained: Trained) -> None:
    told: list[dict[str, Any]] = []
    prepared = trained.sweep.prepared(trained.shared, 1, trained.records[1].point)
    reports = TrialReports(prepared, 7, told.append)
    reports.fail("diverged", "the loss became nan")
    assert told[0]["score"] == 0.0
    assert (told[0]["bits"], told[0]["state"]) == (14, "diverged")


SPACE = (
    "sweep.space.ensemble.choice=[{method: boosting}, {method: bagging}, {method: boosting, "
    "schedule: pipelined}]"
)


@pytest.mark.parametrize(
    ("label", "overrides", "cpus", "bundles"),
    [
        ("method=boosting", [], 1, 1),  # one member at a time, 12 trials on 10 CPUs
        ("method=boosting", ["sweep.trials=3"], 4, 1),
        ("method=boosting", ["resources.member.cpu=3"], 3, 1),
        ("method=bagging", [], 1, 4),
        ("method=boosting, schedule=pipelined", [], 1, 4),
        ("method=bagging", ["resources.member.cpu=3"], 3, 2),  # as many as fit
        ("method=bagging", ["ensemble.members=12"], 1, 8),  # as many as fit on one machine
    ],
)
def test_a_trial_asks_for_room_for_the_members_that_it_can_train_at_once(
    label: str, overrides: list[str], cpus: int, bundles: int
) -> None:
    sweep = load_sweep(None, ["task=demo", SPACE, "resources.member.memory=1e9", *overrides])
    nodes = [Node(cpu=8, gpu=0, memory=32e9), Node(cpu=2, gpu=0, memory=8e9)]
    asked = trial_resources({"number": 0, "ensemble": label}, sweep, nodes)
    assert asked.head_bundle_is_empty, "the driver of a trial needs nothing"
    assert asked.bundles == bundles * [{"CPU": cpus, "memory": 1e9}]
    config = sweep.trial(0, {"ensemble": label})
    assert trial_allotments(config, nodes, sweep).together == bundles


NODES = [Node(cpu=2, gpu=0, memory=8e9)]
POINT = {"member.learning_rate": 5e-3, "ensemble.members": 3}


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Diverged("member 000 diverged: the loss became nan"), "diverged"),
        (RunError("member 000 failed: its process died"), "failed"),
        (UserError("cannot write: the disk is full"), "failed"),
    ],
)
def test_a_trial_without_an_end_reports_the_worst_score_and_why(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    state: str,
) -> None:
    def train(*_: Any) -> None:
        raise error

    monkeypatch.setattr("bebert_ray.sweeps.trial._train", train)
    reported: list[dict[str, Any]] = []
    run_trial({"number": 7, **POINT}, trained.sweep, trained.shared, NODES, reported.append)
    [report] = reported
    assert (report["score"], report["state"], report["note"]) == (0.0, state, str(error))
    bits = fetch(trained.shared.directory / "split").facts["bits"]
    assert report["bits"] == 3 * bits


def test_settings_that_were_tried_are_not_trained_again(trained: Trained) -> None:
    reported: list[dict[str, Any]] = []
    earlier = trained.records[1]
    run_trial({"number": 7, **earlier.point}, trained.sweep, trained.shared, NODES, reported.append)
    [report] = reported
    assert (report["repeats"], report["state"]) == (1, "done")
    assert (report["score"], report["trained"]) == (earlier.score, 2.0)
    assert not (trained.sweep.directory / "trials" / "007").local.exists()
