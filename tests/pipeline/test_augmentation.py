import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from bebert_ray.augment.words import key
from bebert_ray.config import load_config
from bebert_ray.data.columns import tokenize
from bebert_ray.data.corpus import Split
from bebert_ray.errors import RunError, UserError
from bebert_ray.pipeline import augmentation
from bebert_ray.pipeline.augmentation import (
    find_augmented,
    leave_augmented,
    load_copies,
    load_texts,
    make_part,
    open_job,
)
from bebert_ray.pipeline.driver import make_plan
from bebert_ray.pipeline.prepare import load_splits, open_run, prepare
from bebert_ray.storage import Artifact, Miss, fetch

ON = ("data.augment.copies=6", "data.augment.candidates=4")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(augmentation, "PART", 32)


def make(prepared, parts=None):
    job = open_job(prepared)
    for part in job.parts if parts is None else parts:
        make_part(job, part)
    return job


def augmented(runner, *overrides):
    prepared = runner.prepare(*ON, *overrides)
    open_run(prepared)
    leave_augmented(prepared, make(prepared), 0.0)
    return prepared


def test_none_unless_asked_for(runner):
    prepared = runner.prepare()
    assert prepared.augmentation is None
    assert find_augmented(prepared) is None
    assert load_copies(prepared) is None
    assert "augmented" not in make_plan(prepared)


def test_copies_are_of_train_alone_and_none_is_a_held_out_or_dev_example(runner):
    prepared = augmented(runner)
    splits, copies, texts = load_splits(prepared), load_copies(prepared), list(load_texts(prepared))
    rows = json.loads((fetch(prepared.layout.data).path / "rows.json").read_text())
    train, dev = prepared.corpus.train.texts[0], prepared.corpus.dev["dev"].texts[0]
    kept_out = {key([text]) for text in [*dev, *(train[row] for row in rows["selection"])]}
    assert texts
    assert not kept_out & {key(copy.texts) for copy in texts}
    assert copies.origin.tolist() == [copy.origin for copy in texts]
    assert (np.diff(copies.origin) >= 0).all()
    assert copies.columns.labels.tolist() == splits["train"].labels[copies.origin].tolist()
    for copy in texts:
        original = train[rows["train"][copy.origin]].split()
        assert len(original) == len(copy.texts[0].split())
        assert original != copy.texts[0].split()


def test_the_tokens_are_those_of_the_texts(runner):
    prepared = augmented(runner)
    copies, texts = load_copies(prepared), list(load_texts(prepared))
    split = Split(([copy.texts[0] for copy in texts],), copies.columns.labels)
    again = tokenize(split, AutoTokenizer.from_pretrained(prepared.checkpoint.path), 32)
    for name, array in again.to_arrays().items():
        assert np.array_equal(array, copies.columns.to_arrays()[name]), name
        assert array.dtype == copies.columns.to_arrays()[name].dtype


def test_parts_that_are_there_are_kept_and_the_bytes_are_the_same(runner, tmp_path):
    first = augmented(runner)
    other = runner.prepare(*ON, output=tmp_path / "other")
    open_run(other)
    job = make(other, parts=[2, 0])
    assert job.missing() == [1]
    (job.place.local / "part-00000.safetensors").unlink()  # killed between the two files
    assert job.missing() == [0, 1]
    make(other, parts=[1, 0])
    assert job.missing() == []
    leave_augmented(other, job, 1.0)
    one, two = find_augmented(first), find_augmented(other)
    assert isinstance(two, Artifact)
    assert one.digest == two.digest
    assert one.facts["copies"] == len(load_copies(first))


def test_distilled_stages_train_with_them_and_no_split_is_added(runner, finished, tmp_path):
    plain, runner.output = runner.output, tmp_path / "augmented"
    augmented(runner)
    results = runner(*ON)
    assert runner.taken == [*results.stages, "split", "member 000", "member 001"]
    assert results.dev == finished.dev == ("dev",)
    assert set(results.stages["half"].scores) == {"train", "selection", "dev"}

    def digest(run, stage):
        return fetch(run / stage).digest

    assert digest(plain, "half") != digest(runner.output, "half")
    assert fetch(plain / "data").digest == fetch(runner.output / "data").digest


def test_what_training_alone_uses_makes_no_new_copies_and_all_else_does(runner):
    prepared = augmented(runner)
    settings = prepared.config.data.augment

    def found(**changes):
        config = prepared.config
        augment = replace(settings, **changes)
        ensemble = replace(config.ensemble, strategy="B" if augment.per_member else "A")
        data = replace(config.data, augment=augment)
        new = prepare(replace(config, data=data, ensemble=ensemble, fresh=True))
        return find_augmented(new)

    assert isinstance(found(share=0.9, per_member=True), Artifact)
    for change in ({"copies": 7}, {"probability": 0.2}, {"candidates": 5}, {"keep_names": False}):
        assert isinstance(found(**change), Miss)


def test_the_plan_and_fresh_know_of_them(runner):
    prepared = runner.prepare(*ON)
    assert list(make_plan(prepared))[:2] == ["data", "augmented"]
    open_run(prepared)
    assert make_plan(prepared)["augmented"] == "run"
    leave_augmented(prepared, make(prepared), 0.0)
    assert make_plan(prepared)["augmented"] == "done"
    parts = list((runner.output / "checkpoints").glob("*/*"))
    assert len(parts) == 6
    theirs = parts[0].with_name("notes.txt")
    theirs.write_text("mine")
    open_run(runner.prepare(*ON, "fresh=true"))
    assert list((runner.output / "checkpoints").glob("*/*")) == [theirs]
    assert find_augmented(prepared) == Miss("absent")
    with pytest.raises(RunError, match="augmented is absent"):
        load_copies(prepared)


def test_nothing_to_replace(runner, tmp_path):
    lines = ["text\tlabel", *(f"{i} 3.5 !\t{'ab'[i % 2]}" for i in range(40))]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    prepared = runner.prepare(*ON, f"data.path={tmp_path}")
    open_run(prepared)
    with pytest.raises(UserError, match=r"no word to replace in any of the 36 training examples"):
        leave_augmented(prepared, make(prepared), 0.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.augment.vectors=nil.txt", r"^data.augment.vectors: cannot read nil.txt"),
        ("data.augment.model=./nil", r"^data.augment.model: there is no directory ./nil"),
    ],
)
def test_files_that_are_not_there_are_told_before_the_run(runner, override, message):
    with pytest.raises(UserError, match=message):
        runner.prepare(*ON, override)


def test_a_model_that_is_no_masked_lm_and_too_many_candidates(runner, tiny_checkpoint):
    prepared = runner.prepare(*ON, f"data.augment.model={tiny_checkpoint}")
    open_run(prepared)
    with pytest.raises(UserError, match="no masked language model"):
        open_job(prepared)
    prepared = runner.prepare(*ON, "data.augment.candidates=50", "fresh=true")
    open_run(prepared)
    with pytest.raises(UserError, match=r"candidates: 50 is more than .* there are 20 words"):
        open_job(prepared)


def test_members_of_their_own_copies_need_enough_of_them():
    with pytest.raises(UserError, match=r"per_member: 2 copies of an example are too few for 3"):
        load_config(
            None,
            [
                *("task=demo", "ensemble.members=3"),
                *("data.augment.copies=2", "data.augment.per_member=true", "ensemble.strategy=B"),
            ],
        )


def test_trunks_of_their_own_copies_need_enough_of_them():
    with pytest.raises(UserError, match="1 copies of an example are too few for 2"):
        load_config(None, ["task=demo", "ensemble.trunks=2", "data.augment.copies=1"])
