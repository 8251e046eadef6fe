"""The results of a run that never was; and runs made by hand: what a run leaves, without it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bebert_ray.config import load_config, to_dict, to_yaml
from bebert_ray.pipeline.results import Model, Results
from bebert_ray.storage import Location, commit, write_atomic

OVERRIDES = (
    "task=mrpc",
    "ensemble.members=2",
    "export.remainder=none",
    *(f"{stage}.batch_size=10" for stage in ("teacher", "half", "ternary", "member")),
    *(f"{stage}.epochs=2" for stage in ("teacher", "half", "ternary", "member")),
    "ternary.joint=false",
    "ternary.hidden_epochs=1",
    "member.joint=false",
    "ensemble.strategy=A",
)


class HandMade:
    """A run directory, made piece by piece; `ago` is in seconds."""

    def __init__(self, directory: Path | Location, *overrides: str):
        self.location = Location.of(directory)
        self.config = load_config(None, [*OVERRIDES, *overrides])
        write_atomic(self.location / "config.yaml", to_yaml(self.config))
        self._lines = ""

    def tokenise(self, examples: int = 100) -> None:
        facts = {"examples": {"train": examples, "selection": 11, "dev": 40}}
        commit(self.location / "data", "data", {}, lambda _: facts)

    def finish(
        self,
        place: str,
        ago: float = 100,
        held_out: float = 0.8,
        dev: float = 0.7,
        skew: float = 0.0,
        told: bool = True,
    ) -> None:
        """Leave an artifact; `skew`: seconds by which the clock of its disk is ahead."""
        scores = {
            split: {"accuracy": value, "f1": 0.1}
            for split, value in (("train", 0.9), ("selection", held_out), ("dev", dev))
        }
        facts = {"scores": scores, "seconds": 12.5, "bits": 8}
        commit(self.location / place, place, {}, lambda _: facts)
        written = time.time() - ago + skew
        if self.location.is_local:
            os.utime(self.location.local / place / "artifact.json", (written, written))
        if told:
            stage = place.replace("members/", "member ").replace("-fold-", " fold ")
            self.tell(ago, "done", stage, round=None)

    def tell(self, ago: float, kind: str, stage: str, **more: Any) -> None:
        event = {"time": time.time() - ago, "kind": kind, "stage": stage, **more}
        self._lines += json.dumps(event) + "\n"
        write_atomic(self.location / "metrics.jsonl", self._lines)

    def open(self, ago: float) -> None:
        self.tell(ago, "start", "driver", node="here", pid=1)

    def report(self, ago: float, stage: str, step: int, steps: int = 20, **more: Any) -> None:
        report = {
            "epoch": 1 + step // 10,
            "epochs": steps // 10,
            "step": step,
            "steps": steps,
            "loss": 0.5,
            "learning_rate": 1e-4,
            "examples_per_second": 50.0,
            "memory": 2 * 10**9,
            "score": None,
            "round": None,
        }
        self.tell(ago, "progress", stage, **report | more)

    def sum_up(self, names: list[str], note: str = "") -> dict[str, Any]:
        results = {
            "metric": "accuracy",
            "teacher": 0.85,
            "members": [0.7] * len(names),
            "ensemble": 0.8125,
            "models": [{"name": name} for name in names],
            "note": note,
            "config": to_dict(self.config),
        }
        write_atomic(self.location / "results.json", json.dumps(results))
        return results


@pytest.fixture
def made(tmp_path):
    """Makes a run in `tmp_path`, with its data."""

    def made(*overrides: str) -> HandMade:
        run = HandMade(tmp_path, *overrides)
        run.tokenise()
        return run

    return made


def scores(value: float) -> dict[str, dict[str, float]]:
    return {
        split: {"accuracy": value + i / 100}
        for i, split in enumerate(("train", "selection", "dev"))
    }


@pytest.fixture
def results() -> Results:
    return Results(
        run="/runs/sst2",
        task="sst2",
        metrics=("accuracy",),
        classes=("<negative>", "positive"),
        dev=("dev",),
        selection="holdout",
        seed=42,
        stages={
            name: Model(name, scores(0.9 - i / 10), bits=int(8e8 / 4**i), seconds=3725.0)
            for i, name in enumerate(("teacher", "half", "ternary"))
        },
        members=[
            Model("member 000", scores(0.5), 8_000_000, 7.25, alpha=1.5, error=0.2),
            Model("member 001", scores(0.4), 8_000_000, 8.0, alpha=0.5, error=0.4),
        ],
        staged=[scores(0.5), scores(0.55)],
        predictions=[(0, 0)] * 30 + [(0, 1)] * 10 + [(1, 1)] * 1200,
        note="",
        packed=None,
        config={"task": "sst2", "ensemble": {"members": 2}},
        versions={"torch": "2"},
    )
