"""Runs side by side, from their results alone."""

import json
import re
from dataclasses import replace

import compare
import numpy as np
import pytest
from measure.comparison import Gain, gains, group_runs, mean_rows
from measure.pareto import pareto_front

from bebert_ray.cli.common import run_job
from bebert_ray.config import load_config, to_dict
from bebert_ray.errors import UserError
from bebert_ray.pipeline.results import MEAN_MEMBER, Model, Results, to_json
from bebert_ray.storage import write_atomic

LABELS = np.random.default_rng(0).integers(2, size=200)


def scores(value):
    return {split: {"accuracy": value} for split in ("train", "selection", "dev")}


def run(directory, *overrides, ensemble=0.9, members=(0.7, 0.8), labels=LABELS):
    """Results whose ensemble and members are right about so many of the first examples."""
    config = load_config(None, ["task=sst2", f"output={directory}", *overrides])

    def predicted(score):
        return np.where(np.arange(len(labels)) < score * len(labels), labels, 1 - labels).tolist()

    staged = [scores(members[0]), *[scores(ensemble)] * (len(members) - 1)]
    return Results(
        run=str(directory),
        task="sst2",
        metrics=("accuracy",),
        classes=("negative", "positive"),
        dev=("dev",),
        selection="holdout",
        seed=config.seed,
        stages={
            name: Model(name, scores(score), bits, 10.0)
            for name, score, bits in (("teacher", 0.95, 800_000_000), ("half", 0.85, 80_000_000))
        },
        members=[
            Model(f"member {i:03d}", scores(score), 8_000_000, 5.0, 1.0)
            for i, score in enumerate(members)
        ],
        staged=staged,
        predictions=list(zip(labels.tolist(), predicted(ensemble), strict=True)),
        note="",
        packed=None,
        config=json.loads(json.dumps(to_dict(config))),
        versions={},
        member_predictions=[predicted(score) for score in members],
    )


@pytest.fixture
def keep(tmp_path):
    """Leaves results in a directory of their own, and gives its path."""

    def keep(name, *overrides, **more):
        directory = tmp_path / name
        results = run(directory, *overrides, **more)
        write_atomic(directory / "results.json", to_json(results.everything(), indent=2))
        return str(directory)

    return keep


def test_runs_that_differ_in_the_seed_are_a_group():
    groups = group_runs(
        [
            run("b", "seed=2", ensemble=0.8),
            run("a", "seed=1", "resources.num_cpus=2", "training.compile=off"),
            run("c", "seed=1", "bits=1-1-4", "member.epochs=5"),
        ]
    )
    assert [group.name for group in groups] == [
        "bits=1-1-8 member.epochs=3",
        "bits=1-1-4 member.epochs=5",
    ]
    assert [each.seed for each in groups[0].runs] == [1, 2]
    row = mean_rows(groups)[0]
    assert row["seeds"] == 2
    assert row["teacher"] == pytest.approx(0.95)
    assert row["start"] == pytest.approx(0.85)
    assert row["mean member"] == pytest.approx(0.75)
    assert row["ensemble of 1"] == pytest.approx(0.7)
    assert row["ensemble of 2"] == pytest.approx(0.85)
    assert (row["MB"], row["smaller"], row["seconds"]) == (2.0, 50.0, 30.0)


def test_what_a_run_of_version_010_did_without_a_key_for_it_is_known():
    two_phases = ("ternary.joint=false", "member.joint=false", "member.margins=split")
    before, same = run("a", "seed=1", *two_phases), run("b", "seed=2", *two_phases)
    del before.config["ternary"]["joint"], before.config["binary"]["joint"]
    del before.config["member"]["joint"], before.config["member"]["margins"]
    today = run("c", "seed=1", *two_phases[1:])
    groups = group_runs([before, same, today])
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[0].name == ("ternary.joint=False ternary.epochs=3 ternary.learning_rate=0.0001")


def test_an_ensemble_that_ended_early_counts_as_it_is():
    groups = group_runs([run("a", members=(0.7,) * 5), run("b", "bits=1-1-4", ensemble=0.88)])
    rows = mean_rows(groups)
    assert [name for name in rows[0] if name.startswith("ensemble")] == [
        *("ensemble of 1", "ensemble of 2", "ensemble of 4", "ensemble of 5")
    ]
    assert rows[1]["ensemble of 4"] == rows[1]["ensemble of 5"] == pytest.approx(0.88)


def test_the_gain_over_the_mean_member():
    [group] = group_runs([run("a", "seed=1"), run("b", "seed=2", ensemble=0.85)])
    [found] = gains(group, resamples=500)
    assert isinstance(found, Gain)
    assert found.mean == pytest.approx(0.875 - 0.75)
    assert found.low < found.mean < found.high
    # Two seeds and 200 examples, of which up to 15 % differ.
    assert 0.02 < found.high - found.low < 0.2
    assert gains(group, resamples=500) == [found]
    assert found.p == pytest.approx(2 / 501), "25 examples in each seed are no chance"
    [even] = group_runs([run("a", ensemble=0.75, members=(0.75, 0.75))])
    assert gains(even, resamples=100) == [Gain(MEAN_MEMBER, 0.0, 0.0, 0.0, 200, 1, 100, 1.0)]
    [none] = group_runs([replace(run("a"), member_predictions=[])])
    assert gains(none) == []


def test_the_gain_over_other_models_and_another_group():
    labels = LABELS.tolist()
    wrong = [1 - label for label in labels]
    half = [*labels[:100], *wrong[100:]]
    base, other = group_runs(
        [
            run("a", "seed=1"),
            replace(run("b", "seed=1", "bits=1-1-4", ensemble=0.8), model_predictions={"x": half}),
        ]
    )
    found = {gain.over: gain for gain in gains(other, base, resamples=50)}
    assert set(found) == {MEAN_MEMBER, "x", f"{MEAN_MEMBER} of {base.name}"}
    assert found["x"].mean == pytest.approx(0.8 - 0.5)
    assert found[f"{MEAN_MEMBER} of {base.name}"].mean == pytest.approx(0.8 - 0.75)
    [elsewhere] = group_runs([run("c", "seed=2")])
    assert len(gains(other, elsewhere, resamples=10)) == 2, "other seeds are no pairs"


def test_other_metrics_are_bootstrapped_as_well():
    values = np.random.default_rng(1).uniform(0, 5, 60)
    noise = np.random.default_rng(2).normal(size=(2, 60))
    results = replace(
        run("a"),
        metrics=("pearson",),
        classes=None,
        predictions=list(zip(values.tolist(), (values + noise.mean(0)).tolist(), strict=True)),
        member_predictions=(values + noise).tolist(),
    )
    [found] = gains(type(group_runs([run("a")])[0])("x", [results]), resamples=100)
    assert 0 < found.mean < 0.2
    assert found.low <= found.mean <= found.high


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "mrpc"}, "task is sst2 in a, mrpc in b"),
        ({"dev": ("dev_matched",)}, "dev is"),
        ({"selection": "dev"}, "selection is holdout in a, dev in b"),
        ({"predictions": [(0, 0)]}, r"labels of dev in b are not those in a \(1 and 200"),
        ({"seed": 1}, "same configuration and seed"),
    ],
)
def test_runs_that_do_not_compare(change, words):
    one = run("a", "seed=1")
    with pytest.raises(UserError, match=words):
        group_runs([one, replace(one, run="b", **{"seed": 2} | change)])


def test_the_job_prints_tables_and_a_picture(keep, tmp_path, capsys):
    runs = [keep("a", "seed=1"), keep("b", "seed=2"), keep("c", "bits=1-1-4")]
    picture = tmp_path / "pareto.png"
    arguments = [*runs, "--picture", str(picture), "--resamples", "50"]
    assert run_job(lambda: compare.main(arguments)) == 0
    text = capsys.readouterr().out
    assert "sst2, dev accuracy: means over seeds" in text
    assert re.search(r"mean member +│ +0\.7500 │ +0\.7500", text), "no figure is cut"
    assert "…" not in text
    assert "sst2, dev accuracy: each seed" in text
    assert "bits=1-1-4: paired bootstrap over 200 examples and 1 seed" in text
    assert re.search(r"mean member +│ +\+0.1500 │ \+0", text)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_job_prints_json(keep, capsys):
    runs = [keep("a", "seed=1"), keep("b", "seed=2")]
    assert run_job(lambda: compare.main([*runs, "--json", "--resamples", "50"])) == 0
    [line] = capsys.readouterr().out.splitlines()
    content = json.loads(line)
    assert (content["task"], content["metric"], content["split"]) == ("sst2", "accuracy", "dev")
    [group] = content["groups"]
    assert group["runs"] == runs
    assert group["seeds"] == [1, 2]
    assert [row["seed"] for row in group["by_seed"]] == [1, 2]
    assert group["mean"]["ensemble of 2"] == pytest.approx(0.9)
    assert [gain["seeds"] for gain in group["gains"]] == [2]


def test_bad_input_is_told_of(keep, tmp_path, capsys):
    assert run_job(lambda: compare.main([str(tmp_path / "none")])) == 2
    assert "results.json does not exist" in capsys.readouterr().err
    other = keep("b", "seed=2", labels=LABELS[:100])
    assert run_job(lambda: compare.main([keep("a", "seed=1"), other])) == 2
    assert "labels of dev" in capsys.readouterr().err


def test_the_front():
    assert pareto_front([(1, 0.7), (1, 0.8), (2, 0.8), (3, 0.9)]) == [(1, 0.8), (3, 0.9)]
