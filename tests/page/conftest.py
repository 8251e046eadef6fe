"""The results of a run that never was."""

from __future__ import annotations

import pytest

from bebert_ray.report import Model, Results


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
