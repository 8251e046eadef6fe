"""What is checked before a run, and how it enters its directory."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from bebert_ray.config.recipes import RIVAL_NAMES
from bebert_ray.errors import UserError
from bebert_ray.pipeline.config_file import HEAD, keep_config
from bebert_ray.pipeline.prepare import Prepared, load_splits, open_run
from bebert_ray.storage import Artifact, commit, names


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint, to be damaged."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


# --- the checkpoint ---


def test_damaged_weights_are_refused_before_anything_starts(runner, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model: the weights in .*checkpoint cannot be read"):
        runner.prepare(f"model={checkpoint}")


def test_weights_that_lack_tensors_are_refused(runner, checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"not a complete BERT.*encoder\.layer\.1\.output"):
        runner.prepare(f"model={checkpoint}")


def test_a_tokenizer_of_a_larger_model_is_refused(runner, checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = tensors[name][:20].contiguous()
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text()) | {"vocab_size": 20}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not belong together"):
        runner.prepare(f"model={checkpoint}")


@pytest.mark.parametrize(
    ("file", "settings", "changes", "message"),
    [
        (
            "config.json",
            {"type_vocab_size": 1},
            ["data.text_columns=[text, text2]"],
            "type_vocab_size is 1",
        ),
        ("tokenizer_config.json", {"pad_token": None}, [], "has no pad_token"),
        ("config.json", {"position_embedding_type": "relative_key"}, [], "position_embedding_type"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    runner, checkpoint, reviews, tmp_path, file, settings, changes, message
):
    if "type_vocab_size" in settings:
        tensors = load_file(checkpoint / "model.safetensors")
        name = "embeddings.token_type_embeddings.weight"
        tensors[name] = tensors[name][:1].contiguous()
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        data = shutil.copytree(reviews, tmp_path / "pairs")
        for path in data.iterdir():
            lines = [line.split("\t") for line in path.read_text().splitlines()]
            lines[0].append("text2")
            rows = [[*row, row[0]] for row in lines[1:]]
            path.write_text("".join("\t".join(row) + "\n" for row in [lines[0], *rows]))
        changes = [*changes, f"data.path={data}"]
    path = checkpoint / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(UserError, match=message):
        runner.prepare(f"model={checkpoint}", *changes)
    assert not runner.output.exists()


def test_inputs_longer_than_the_model_can_take_are_refused(runner):
    assert runner.prepare("data.max_length=64")
    with pytest.raises(UserError, match=r"data\.max_length: 65 tokens .* give at most 64"):
        runner.prepare("data.max_length=65")


def test_a_relative_checkpoint_means_the_same_to_every_worker(runner, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    assert runner.prepare("model=checkpoint").checkpoint.path == checkpoint


# --- the run directory ---


def test_a_relative_output_is_relative_to_where_the_job_was_started(runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runner.prepare("output=here").directory.local == tmp_path / "here"


def test_a_ray_job_refuses_a_relative_output(runner, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(
        UserError, match=r"output: here is relative.*give an absolute path or a URI"
    ):
        runner.prepare("output=here")
    assert runner.prepare().directory.local == runner.output


def test_an_empty_directory_will_do(runner):
    runner.output.mkdir()
    (runner.output / ".lock").touch()
    assert runner.prepare().directory.local == runner.output


def test_a_directory_of_something_else_is_refused_even_to_start_over(runner):
    runner.output.mkdir()
    (runner.output / "thesis.tex").touch()
    for change in ("fresh=false", "fresh=true"):
        with pytest.raises(UserError, match=r"is not empty and holds no run"):
            runner.prepare(change)
    assert (runner.output / "thesis.tex").exists()


def test_a_project_with_a_config_of_its_own_is_no_run(runner):
    """`fresh=true` must not delete its data and models."""
    for name in ("config.yaml", "data/train.csv", "model/weights.bin", "logs/today.txt"):
        path = runner.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("task: mrpc\n")
    before = sorted(runner.output.rglob("*"))
    for change in ("fresh=false", "fresh=true"):
        with pytest.raises(UserError, match=r"its config\.yaml was not written by bebert_ray"):
            runner.prepare(change)
    assert sorted(runner.output.rglob("*")) == before


@pytest.mark.parametrize(
    ("precision", "compiler", "compile"),
    [("bf16", "g++", "on"), ("bf16", None, "off"), ("fp32", "g++", "off")],
)
def test_what_compiles_and_what_a_run_goes_on_with(
    runner, monkeypatch, precision, compiler, compile
):
    def prepare(found, *overrides):
        monkeypatch.setattr("bebert_ray.pipeline.prepare.find_compiler", lambda: found)
        return runner.prepare(f"training.precision={precision}", *overrides)

    begun = prepare(compiler)
    assert begun.config.training.compile == compile
    open_run(begun)
    for found in ("g++", None):  # whatever the machine that goes on has
        assert prepare(found).config.training.compile == compile
    other = "off" if compile == "on" else "on"
    assert prepare(compiler, f"training.compile={other}").config.training.compile == other


def test_a_run_of_a_version_that_did_not_compile_goes_on_so(runner, monkeypatch):
    prepared = runner.prepare("training.precision=bf16")
    open_run(prepared)
    training = replace(prepared.config.training, compile="auto")
    keep_config(replace(prepared.config, training=training), prepared.directory)
    monkeypatch.setattr("bebert_ray.pipeline.prepare.find_compiler", lambda: "g++")
    assert runner.prepare("training.precision=bf16").config.training.compile == "off"


def test_a_file_in_place_of_the_directory_is_refused(runner):
    runner.output.touch()
    with pytest.raises(UserError, match=r"output: .*run: Not a directory"):
        runner.prepare()


def test_an_output_that_is_no_place_is_refused(runner):
    with pytest.raises(UserError, match=r"output: gopher://host/run cannot be used"):
        runner.prepare("output=gopher://host/run")


def test_a_run_may_be_in_an_object_store(runner, bucket, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for changes in ((), ("resources.num_cpus=2",), ("fresh=true", "seed=7")):
        prepared = runner.prepare(f"output={bucket}", *changes)
        assert prepared.directory == bucket
        assert len(open_run(prepared)["train"]) == 86
    assert names(bucket) == {"config.yaml", "data", "encoder"}
    with pytest.raises(UserError, match=r"mrpc\?.* is another run:\n  seed: 7 there, 42 here"):
        runner.prepare(f"output={bucket}")


@pytest.mark.usefixtures("finished")
def test_a_run_of_an_earlier_version_gets_its_encoder_and_goes_on(runner):
    shutil.rmtree(runner.output / "encoder")
    runner()
    assert runner.taken == []
    assert (runner.output / "encoder" / "model.safetensors").exists()


@pytest.mark.usefixtures("finished")
class TestAnotherRun:
    """`output` holds a finished run."""

    def test_keys_that_differ_are_named_with_both_values(self, runner):
        with pytest.raises(UserError) as refusal:
            runner.prepare("seed=7", "teacher.epochs=1", "member.epochs=2")
        assert str(refusal.value).splitlines() == [
            f"output: {runner.output} is another run:",
            "  seed: 42 there, 7 here",
            "  teacher.epochs: 12 there, 1 here",
            "choose another output, or start over with fresh=true",
        ]

    @pytest.mark.parametrize(
        "change",
        [
            "ensemble.members=9",
            "member.epochs=2",
            "resources.num_cpus=2",
            "training.checkpoint_every=7",
        ],
    )
    def test_keys_of_the_members_and_of_the_machine_may_differ(self, runner, change):
        assert runner.prepare(change)

    def test_fresh_lets_everything_differ(self, runner):
        assert runner.prepare("seed=7", "fresh=true")

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda text: text.replace("seed: 42", "seed: 43"), "it is not as it was written"),
            (lambda text: text[:-20], "it is not as it was written"),
            (lambda text: text[:20], "task: is missing"),
            (lambda text: "", "task: is missing"),
            (lambda text: "\0\0\0", "is not valid YAML"),
            (lambda text: "tusk: sst2\n", "tusk: unknown key"),
        ],
    )
    def test_a_damaged_configuration_is_named_and_nothing_else_is_lost(
        self, runner, damage, reason
    ):
        path = runner.output / "config.yaml"
        path.write_text(damage(path.read_text()))
        with pytest.raises(UserError, match=rf"(?s)config\.yaml is damaged: .*{reason}.*delete"):
            runner.prepare()
        assert runner.prepare("fresh=true")
        path.unlink()
        runner()
        assert runner.taken == []
        assert runner.prepare()

    def test_without_data_too_it_is_no_run(self, runner):
        for name in ("config.yaml", "data/artifact.json"):
            (runner.output / name).unlink()
        with pytest.raises(UserError, match="holds no run"):
            runner.prepare()

    def test_a_run_that_came_between_is_noticed_on_entering(self, runner):
        prepared = runner.prepare("seed=7", output=runner.output.parent / "late")
        shutil.copytree(runner.output, prepared.directory.local)
        with pytest.raises(UserError, match="seed: 42 there, 7 here"):
            open_run(prepared)

    def test_fresh_deletes_what_runs_make_and_nothing_else(self, runner):
        output = runner.output
        made = ("metrics.jsonl", "results.json", "scores.png", "report.html")
        for name in (*made, "notes.txt", "data.csv"):
            (output / name).touch()
        for name in ("checkpoints/half/0", "tensorboard/half", "logs", f".half.{32 * '0'}.tmp"):
            (output / name).mkdir(parents=True)
        for name in ("half-trunk1", "split-wide", *RIVAL_NAMES):
            commit(output / name, name, {}, lambda _: {})
        open_run(runner.prepare("fresh=true", "seed=7"))
        new = {"config.yaml", "data", "encoder"}
        assert set(os.listdir(output)) == {*new, "notes.txt", "data.csv"}
        assert "seed: 7" in (output / "config.yaml").read_text()

    def test_fresh_says_what_it_cannot_delete(self, runner, monkeypatch):
        def fail(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "unlink", fail)
        with pytest.raises(UserError, match=r"cannot delete .*/run/\w+: Permission denied"):
            open_run(runner.prepare("fresh=true"))

    @pytest.mark.parametrize("place", ["data", "members", "members/000", "weights", "tensorboard"])
    def test_fresh_keeps_the_files_of_others_wherever_they_are(self, runner, place):
        mine = runner.output / place / "mine" / "notes.txt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        run = runner.prepare("fresh=true", "seed=7")
        open_run(run)
        assert mine.read_text() == "mine"
        assert not (runner.output / "members" / "000" / "model.safetensors").exists()
        assert isinstance(run.find_data(), Artifact)

    def test_a_copied_configuration_makes_no_run(self, runner, tmp_path, snapshot):
        project = tmp_path / "project"
        for name in ("data", "logs", "model"):
            (project / name).mkdir(parents=True)
            (project / name / "mine.csv").write_text("mine")
        shutil.copy(runner.output / "config.yaml", project)
        before = snapshot(project)
        with pytest.raises(UserError, match="nothing proves that bebert_ray wrote it"):
            runner.prepare("fresh=true", output=project)
        assert snapshot(project) == before

    def test_a_stage_of_others_is_refused(self, runner, snapshot):
        shutil.rmtree(runner.output / "teacher")
        (runner.output / "teacher").mkdir()
        (runner.output / "teacher" / "lesson.txt").write_text("mine")
        before = snapshot(runner.output)
        for fresh in ("fresh=false", "fresh=true"):
            with pytest.raises(UserError, match=r"teacher was not written by bebert_ray"):
                runner.prepare(fresh)
        assert snapshot(runner.output) == before

    @pytest.mark.parametrize("name", ["config.yaml", "results.json", "data/artifact.json"])
    def test_what_a_newer_version_made_is_refused_and_stays(self, runner, snapshot, name):
        path = runner.output / name
        if name == "config.yaml":
            body = path.read_text().partition("\n")[2] + "telepathy: true\n"
            checksum = hashlib.sha256(body.encode()).hexdigest()
            path.write_text(f"{HEAD}{checksum}\n{body}")
        elif name == "results.json":
            path.write_text(json.dumps({"version": 99}))
        else:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
        before = snapshot(runner.output)
        with pytest.raises(UserError, match="made by a newer version"):
            open_run(runner.prepare())
        assert snapshot(runner.output) == before

    def test_what_killed_processes_have_left_is_swept(self, runner):
        draft = runner.output / "members" / f".000.{32 * '0'}.tmp"
        (draft / "deep").mkdir(parents=True)
        open_run(runner.prepare())
        assert not draft.exists()


# --- the examples ---


def test_the_splits_are_parts_of_the_corpus(runner):
    prepared: Prepared = runner.prepare("data.holdout=0.25")
    splits = open_run(prepared)
    assert isinstance(prepared.find_data(), Artifact)
    assert {name: len(columns) for name, columns in splits.items()} == {
        "train": 72,
        "selection": 24,
        "dev": 40,
    }
    rows = json.loads((runner.output / "data" / "rows.json").read_text())
    assert sorted(rows["train"] + rows["selection"]) == list(range(96))
    labels = prepared.corpus.train.labels
    np.testing.assert_array_equal(splits["train"].labels, labels[rows["train"]])
    np.testing.assert_array_equal(splits["selection"].labels, labels[rows["selection"]])


def test_they_are_tokenised_once(runner, monkeypatch):
    first = open_run(runner.prepare())
    monkeypatch.setattr("bebert_ray.pipeline.prepare.tokenize", None)
    again = open_run(runner.prepare())
    np.testing.assert_array_equal(first["train"].input_ids, again["train"].input_ids)
    np.testing.assert_array_equal(
        first["dev"].offsets, load_splits(runner.prepare())["dev"].offsets
    )


def test_they_are_tokenised_again_when_the_texts_change(runner, reviews, tmp_path):
    copy = shutil.copytree(reviews, tmp_path / "reviews")
    first = runner.prepare(f"data.path={copy}")
    open_run(first)
    text = (copy / "train.tsv").read_text()
    (copy / "train.tsv").write_text(text.replace("good", "great", 1))
    assert not isinstance(runner.prepare(f"data.path={copy}").find_data(), Artifact)


def test_selection_on_dev_trains_on_all_of_train(runner):
    splits = open_run(runner.prepare("selection=dev"))
    assert len(splits["train"]) == 96
    np.testing.assert_array_equal(splits["selection"].labels, splits["dev"].labels)
