"""Whole runs of a tiny model, in this process: what is trained, what is kept, and the figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bebert_ray.errors import UserError
from bebert_ray.pipeline.driver import Run, found, make_plan
from bebert_ray.pipeline.prepare import load_splits
from bebert_ray.pipeline.results import Results, to_json
from bebert_ray.reporting.html import page
from bebert_ray.reporting.status import look
from bebert_ray.scoring.classifier import Classifier, read_card
from bebert_ray.storage import Location, find
from bebert_ray.training import stages
from bebert_ray.training.work import load_logits

STAGES = ["teacher", "half", "ternary", "split"]
MEMBERS = ["member 000", "member 001"]


def member_bytes(results):
    """The weights of every member on disk."""
    models = (Path(results.run) / "members").glob("*/model.safetensors")
    return {path.parent.name: path.read_bytes() for path in models}


def test_a_run_does_all_steps_once_and_another_does_none(runner, snapshot):
    first = runner()
    assert runner.taken == STAGES + MEMBERS
    started, trained, boosted = (
        [event for event in runner.events if event["kind"] == kind]
        for kind in ("start", "progress", "boost")
    )
    assert [event["stage"] for event in started] == STAGES + MEMBERS
    assert {event["stage"] for event in trained} == {"teacher", "half", "ternary", *MEMBERS}
    assert trained[-1]["step"] == trained[-1]["steps"]
    assert trained[-1]["score"] is not None
    assert [event["alpha"] for event in boosted] == [member.alpha for member in first.members]
    before = snapshot(runner.output)
    assert runner().summary() == first.summary()
    assert runner.taken == []
    after = snapshot(runner.output)
    assert {name for name in after if after[name] != before[name]} <= {"config.yaml"}


def test_the_figures_are_those_of_the_models_on_disk(runner, finished):
    results, summary = finished, finished.summary()
    assert summary["teacher"] > 0.6, "the tiny teacher must learn, or this test shows nothing"
    members = runner.output / "members"
    logits = [load_logits(members / name)["dev"] for name in ("000", "001")]
    labels = np.array(runner.prepare().corpus.dev["dev"].labels)
    accuracies = [float((one.argmax(1) == labels).mean()) for one in logits]
    assert summary["members"] == accuracies

    probabilities = [np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in logits]
    mixed = sum(a * p for a, p in zip(summary["alphas"], probabilities, strict=True))
    assert summary["ensemble"] == float((mixed.argmax(1) == labels).mean())
    assert [scores["dev"]["accuracy"] for scores in results.staged] == [
        accuracies[0],
        summary["ensemble"],
    ]
    # SAMME, K = 2: alpha = learning_rate log((1 - e) / e) of the error on train.
    train = load_logits(members / "000")["train"]
    record = json.loads((runner.output / "data" / "rows.json").read_text())
    wrong = train.argmax(1) != runner.prepare().corpus.train.labels[record["train"]]
    error = wrong.mean()
    assert results.members[0].error == pytest.approx(error)
    assert summary["alphas"][0] == pytest.approx(0.5 * np.log((1 - error) / error))


def test_predictions_are_those_that_are_scored(runner, finished):
    assert finished.classes == ("neg", "pos")
    hits = [label == prediction for label, prediction in finished.predictions]
    assert len(hits) == 40  # dev
    assert np.mean(hits) == pytest.approx(finished.headline(finished.scores))
    assert "an ensemble of 2" in page(finished, Location.of(runner.output))


def test_results_read_back_give_the_same_report(runner, finished):
    read = Results.from_json(json.loads(to_json(finished.everything(), indent=2)))
    assert read == finished
    assert page(read, Location.of(runner.output)) == page(finished, Location.of(runner.output))
    [label, *_] = [label for label, _ in read.predictions]
    assert isinstance(label, int)
    for member, predicted in zip(read.members, read.member_predictions, strict=True):
        hits = [label == one for (label, _), one in zip(read.predictions, predicted, strict=True)]
        assert np.mean(hits) == pytest.approx(read.headline(member.scores))


def test_two_runs_from_scratch_give_the_same_bits_and_another_seed_gives_others(
    runner, finished, tmp_path
):
    one = member_bytes(finished)
    assert member_bytes(runner(output=tmp_path / "again")) == one
    other = member_bytes(runner("seed=43", output=tmp_path / "other"))
    assert all(other[name] != one[name] for name in one)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ("member.epochs=2", MEMBERS),
        ("ensemble.strategy=B", MEMBERS),
        ("ensemble.learning_rate=0.9", MEMBERS[1:]),  # the first sees uniform weights either way
        ("ensemble.members=3", ["member 002"]),
        ("ensemble.members=1", []),
        ("member.hidden_epochs=2", []),  # strategy A has no such passes
        ("member.warmup=0.5", MEMBERS),
        ("resources.member.cpu=1", []),
        ("training.eval_batch_size=7", []),
    ],
)
@pytest.mark.usefixtures("finished")
def test_what_a_change_retrains(runner, change, taken):
    plan = make_plan(runner.prepare(change))
    assert [name for name, state in plan.items() if state.startswith("run")] == taken
    runner(change)
    assert runner.taken == taken


def test_a_damaged_stage_is_made_again_and_what_follows_from_it_stays(runner, finished):
    with (runner.output / "ternary" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    plan = make_plan(runner.prepare())
    assert plan["half"] == "done"
    assert plan["ternary"] == "run (damaged: model.safetensors is not as it was written)"
    again = runner()
    assert runner.taken == ["ternary"], "the same bits come again, so split and members stand"
    assert again.summary()["members"] == finished.summary()["members"]


def test_a_plan_of_a_new_run_makes_no_directory(runner):
    assert make_plan(runner.prepare()) == dict.fromkeys(["data", *STAGES, *MEMBERS], "run")
    assert not runner.output.exists()


@pytest.mark.usefixtures("finished")
def test_a_plan_of_a_finished_run_changes_nothing(runner, snapshot):
    everything = ["data", *STAGES, *MEMBERS]
    before = snapshot(runner.output)
    assert make_plan(runner.prepare()) == dict.fromkeys(everything, "done")
    assert make_plan(runner.prepare("fresh=true")) == dict.fromkeys(everything, "run")
    assert snapshot(runner.output) == before


def test_fresh_runs_all_again(runner, finished):
    again = runner("fresh=true")
    assert runner.taken == STAGES + MEMBERS
    assert again.summary()["members"] == finished.summary()["members"]


def test_regression_is_boosted_by_adaboost_r2(runner):
    regression = ("data.kind=regression", "data.label_column=score")
    results = runner(*regression)
    assert results.metrics == ("pearson", "spearman")
    assert len(results.members) == 2
    # AdaBoost.R2: e is the mean of |error| / max |error|, alpha = learning_rate log((1 - e) / e).
    members, corpus = runner.output / "members", runner.prepare(*regression).corpus
    rows = json.loads((runner.output / "data" / "rows.json").read_text())["train"]
    errors = abs(load_logits(members / "000")["train"][:, 0] - corpus.train.labels[rows])
    error = (errors / errors.max()).mean()
    alphas = results.summary()["alphas"]
    assert results.members[0].error == pytest.approx(error)
    assert alphas[0] == pytest.approx(0.5 * np.log((1 - error) / error))

    logits = [load_logits(members / name)["dev"][:, 0] for name in ("000", "001")]
    mean = sum(a * one for a, one in zip(alphas, logits, strict=True)) / sum(alphas)
    pearson = np.corrcoef(mean, corpus.dev["dev"].labels)[0, 1]
    assert results.summary()["ensemble"] == pytest.approx(pearson, abs=1e-6)
    others = [each["p"] for each in results.baselines.values()]
    assert len(others) == 3
    assert all(p is not None and 0 < p <= 1 for p in others)
    assert -1 <= results.diagnostics["error_correlation"] <= 1


def test_bagging_trains_each_member_on_a_bootstrap_sample(runner):
    results = runner("ensemble.method=bagging", "ensemble.strategy=C")
    assert runner.taken == STAGES + MEMBERS
    assert results.summary()["alphas"] == [1.0, 1.0]
    assert [member.error for member in results.members] == [None, None]
    bits = member_bytes(results)
    assert bits["000"] != bits["001"]
    runner("ensemble.method=bagging", "ensemble.strategy=C", "ensemble.schedule=sequential")
    assert runner.taken == [], "the schedule decides when, not what"


def test_out_of_fold_errors_come_from_folds_trained_beside_each_member(runner):
    changes = ("ensemble.errors=out_of_fold", "ensemble.folds=2")
    results = runner(*changes)
    folds = [f"member {m:03d} fold {k}" for m in range(2) for k in range(2)]
    assert runner.taken == [*STAGES, MEMBERS[0], *folds[:2], MEMBERS[1], *folds[2:]]
    assert list(make_plan(runner.prepare(*changes))) == ["data", *runner.taken]
    # Each training example counts as its own fold's model, which did not train on it, has it.
    data = runner.prepare(*changes).corpus.train.labels
    rows = json.loads((runner.output / "data" / "rows.json").read_text())["train"]
    wrong = np.zeros(len(rows))
    for k in range(2):
        unseen = np.load(runner.output / "weights" / f"000-fold-{k}.npy") == 0
        logits = load_logits(runner.output / "members" / f"000-fold-{k}")["train"]
        wrong[unseen] = (logits.argmax(1) != data[rows])[unseen]
    assert results.members[0].error == pytest.approx(wrong.mean())


def test_dev_as_selection_judges_members_on_dev(runner):
    results = runner("selection=dev", "ensemble.errors=holdout")
    splits = results.members[0].scores
    assert splits["selection"] == splits["dev"]
    assert results.members[0].error == pytest.approx(1 - splits["dev"]["accuracy"])


# --- the packed model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _packed_once(_run_once, tiny_run, tmp_path_factory, make_runner):
    output = tmp_path_factory.mktemp("packed") / "run"
    shutil.copytree(_run_once[0], output)
    make_run = make_runner([*tiny_run, "export.remainder=fp16"], output)
    return output, make_run(), list(make_run.taken)


@pytest.fixture
def packed(runner, _packed_once):
    """The results of a run that has packed its members, and that `runner` finds done already."""
    shutil.copytree(_packed_once[0], runner.output)
    runner.overrides = [*runner.overrides, "export.remainder=fp16"]
    return _packed_once[1]


def test_a_finished_run_is_packed_alone(_packed_once, runner, packed):
    assert _packed_once[2] == ["model"]
    assert packed.packed.logit_difference == 0
    assert packed.packed.scores == {name: packed.scores[name] for name in ("selection", "dev")}
    kept, *others = packed.packed.cascade["curve"]
    assert packed.packed.cascade["kept"]["members"] == kept["members"]["selection"] <= 2
    assert kept["scores"]["selection"]["accuracy"] >= packed.scores["selection"]["accuracy"]
    assert others[0]["members"]["dev"] == 1 and others[-1]["members"]["dev"] == 2
    assert others[-1]["scores"] == packed.packed.scores
    config = json.loads((runner.output / "model" / "config.json").read_text())
    assert config["cascade_settings"] == packed.packed.cascade["kept"]
    size = (runner.output / "model" / "model.safetensors").stat().st_size
    assert packed.packed.bytes["file"] == size
    assert packed.everything()["packed"]["remainder"] == "fp16"
    plan = make_plan(runner.prepare())
    assert list(plan) == ["data", *STAGES, *MEMBERS, "model"]
    assert set(plan.values()) == {"done"}
    assert "model" not in make_plan(runner.prepare("export.remainder=none"))
    assert runner().packed == packed.packed
    assert runner.taken == []


def test_the_packed_model_says_what_the_ensemble_does(runner, packed):
    from transformers import AutoTokenizer

    from bebert_ray.packed import BebertForSequenceClassification

    model = BebertForSequenceClassification.from_pretrained(runner.output / "model")
    assert list(model.config.label2id) == ["neg", "pos"]
    assert model.config.text_columns == ["text"]
    assert model.config.alphas == packed.summary()["alphas"]
    tokenizer = AutoTokenizer.from_pretrained(runner.output / "model")
    assert tokenizer.model_max_length == 32
    dev = runner.prepare().corpus.dev["dev"]
    batch = tokenizer(list(dev.texts[0]), return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        labels = model(**batch).logits.argmax(-1)
    assert (labels.numpy() == dev.labels).mean() == packed.summary()["ensemble"]


def test_the_packed_model_scores_texts_as_the_run_did(runner, packed):
    place = Location.of(runner.output / "model")
    card = read_card(place)
    assert (card.labels, card.text_columns) == (("neg", "pos"), ("text",))
    dev = runner.prepare().corpus.dev["dev"]
    scores = Classifier(place, batch_size=7).score(dev.texts)
    assert scores.argmax(axis=1).tolist() == [prediction for _, prediction in packed.predictions]


def test_the_card_tells_scores_sizes_seed_and_settings(runner, packed):
    card = (runner.output / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| dev | {packed.summary()['ensemble']:.4f} |" in card
    assert "Floats are stored in 16 bits" in card
    assert "Seed 42." in card
    config = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert config["teacher"]["epochs"] == 12
    assert not {"output", "resources", "export"} & config.keys()
    assert str(runner.output) not in card


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ("export.remainder=fp32", ["member 000", "member 001", "model"]),
        ("ensemble.members=1", ["model"]),
        ("ensemble.members=3", ["member 002", "model"]),
        ("training.eval_batch_size=7", []),
        ("resources.member.cpu=1", []),
    ],
)
def test_what_a_change_packs_anew(runner, change, taken):
    plan = make_plan(runner.prepare(change))
    assert "model" in plan
    results = runner(change)
    assert runner.taken == taken
    assert results.packed.logit_difference == 0
    assert results.packed.scores == {name: results.scores[name] for name in ("selection", "dev")}


def test_a_damaged_packed_model_is_made_again(runner, packed):
    path = runner.output / "model" / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x55")
    assert make_plan(runner.prepare())["model"].startswith("run (damaged: model.safetensors")
    assert runner().packed == packed.packed
    assert runner.taken == ["model"]
    assert path.read_bytes() == content


def test_an_interrupted_packing_leaves_nothing_and_the_next_comes_to_the_same_bytes(
    runner, packed, monkeypatch
):
    def files():
        names = ("config.json", "model.safetensors", "packed.json", "tokenizer.json", "README.md")
        return {name: (runner.output / "model" / name).read_bytes() for name in names}

    def interrupted(*_):
        raise KeyboardInterrupt

    before = files()
    shutil.rmtree(runner.output / "model")
    with monkeypatch.context() as patch:
        patch.setattr("bebert_ray.pipeline.pack.model_card", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner()
    assert not (runner.output / "model").exists()
    assert runner().packed == packed.packed
    assert runner.taken == ["model"]
    assert files() == before


# --- in rounds ----------------------------------------------------------------------------------

PIPELINED = (
    "ensemble.schedule=pipelined",
    "ensemble.rounds=2",
    "member.epochs=2",
    "training.checkpoint_every=3",
)
ROUNDS = [f"{member} round 0" for member in MEMBERS]


@pytest.fixture(scope="module")
def _pipelined_once(_run_once, tiny_run, tmp_path_factory, make_runner):
    output = tmp_path_factory.mktemp("pipelined") / "run"
    shutil.copytree(_run_once[0], output)  # the shared stages are there
    shutil.rmtree(output / "members")
    runner = make_runner(tiny_run, output)
    results = runner(*PIPELINED)
    assert runner.taken == [*ROUNDS, *MEMBERS]
    return output, results


@pytest.fixture
def pipelined(runner, _pipelined_once):
    """The results of a pipelined run that `runner` finds done already."""
    shutil.copytree(_pipelined_once[0], runner.output)
    return _pipelined_once[1]


def everything(results):
    """All that a run comes to, but how long it took and where it is."""
    figures = results.everything()
    ignored = {
        "run": None,
        "seconds": None,
        "checksum": None,
        "config": {**figures["config"], "output": None},
    }
    return figures | ignored | {"models": [{**model, "seconds": 0} for model in figures["models"]]}


def test_a_pipelined_member_learns_from_those_before_it_a_round_ago(runner, pipelined):
    weights, members = runner.output / "weights", runner.output / "members"
    uniform = np.load(weights / "000.npy")
    assert np.ptp(uniform) == 0
    for name in ("000-round-0", "001-round-0"):
        np.testing.assert_array_equal(np.load(weights / f"{name}.npy"), uniform)
        files = {path.name for path in (members / name).iterdir()}
        assert files == {"artifact.json", "logits.safetensors"}
    # Member 1 sees more, in its second round, of what member 0 got wrong at the end of its first.
    rows = json.loads((runner.output / "data" / "rows.json").read_text())["train"]
    labels = runner.prepare(*PIPELINED).corpus.train.labels[rows]
    wrong = load_logits(members / "000-round-0")["train"].argmax(1) != labels
    assert 0 < wrong.mean() < 0.5
    seen = np.load(weights / "001.npy")
    assert seen[wrong].min() > seen[~wrong].max()
    # The say comes from the last round.
    final = load_logits(members / "000")["train"].argmax(1) != labels
    assert pipelined.members[0].error == pytest.approx(final.mean())
    assert not list((runner.output / "checkpoints").glob("*/*"))


def test_a_pipelined_run_is_the_same_each_time(runner, pipelined):
    assert everything(runner(*PIPELINED)) == everything(pipelined)
    assert runner.taken == []
    shutil.rmtree(runner.output / "members")
    assert everything(runner(*PIPELINED)) == everything(pipelined)
    assert runner.taken == [*ROUNDS, *MEMBERS]


@pytest.mark.parametrize(
    ("lost", "taken"),
    [
        ("teacher", "teacher"),
        ("half", "half"),
        ("ternary", "ternary"),
        ("split", "split"),
        ("members/000-round-0", "member 000 round 0"),
        ("members/001-round-0", "member 001 round 0"),
        ("members/000", "member 000"),
        ("members/001", "member 001"),
    ],
)
def test_what_is_lost_is_made_again_and_nothing_else(runner, pipelined, lost, taken):
    before = member_bytes(pipelined)
    shutil.rmtree(runner.output / lost)
    assert everything(runner(*PIPELINED)) == everything(pipelined)
    assert runner.taken == [taken]
    assert member_bytes(runner(*PIPELINED)) == before


class Killed(BaseException):
    """Ends a run as if its process had died."""


@pytest.mark.parametrize(
    ("stage", "step", "again"),
    [
        ("member 000", 11, [*ROUNDS, *MEMBERS]),  # the end of its first round
        ("member 001", 11, [*ROUNDS[1:], *MEMBERS]),
        ("member 000", 22, MEMBERS),  # the end of its last
        ("member 001", 22, MEMBERS[1:]),
    ],
)
def test_a_run_that_died_goes_on_from_the_checkpoints(runner, pipelined, stage, step, again):
    """At the end of a round there is a checkpoint, and no artifact yet."""
    shutil.rmtree(runner.output / "members")

    def die(event):
        if (event["kind"], event["stage"], event.get("step")) == ("progress", stage, step):
            raise Killed

    with pytest.raises(Killed):
        runner(*PIPELINED, report=die)
    plan = make_plan(runner.prepare(*PIPELINED))
    assert plan[again[0]] == "run (from its checkpoint)"
    assert everything(runner(*PIPELINED)) == everything(pipelined)
    assert runner.taken == again
    trained = {(e["stage"], e["step"]) for e in runner.events if e["kind"] == "progress"}
    assert (stage, step) not in trained, "what has a checkpoint is not trained again"


def test_results_hold_all_that_a_figure_depends_on(finished, runner):
    everything = finished.everything()
    assert {"torch", "transformers", "ray", "python", "bebert_ray"} <= everything["versions"].keys()
    assert everything["config"]["seed"] == everything["seed"] == 42
    assert json.loads(json.dumps(everything, allow_nan=False))
    step = runner.output / "teacher"
    assert find(step, json.loads((step / "artifact.json").read_text())["inputs"])


# --- fully binary members -----------------------------------------------------------------------

BINARY = ("bits=1-1-1", "binary.through=[1-1-2]", "binary.activations=elastic")
BINARY_STAGES = ["teacher", "binary-1-1-2", "binary-1-1-1"]


@pytest.mark.parametrize(
    "strategy", [*(pytest.param(each, marks=pytest.mark.slow) for each in "AB"), "C"]
)
def test_fully_binary_members_are_boosted_in_rounds_and_taken_up_like_others(runner, strategy):
    settings = (*BINARY, *PIPELINED, f"ensemble.strategy={strategy}")
    first = runner(*settings)
    assert runner.taken == [*BINARY_STAGES, *ROUNDS, *MEMBERS]
    assert list(make_plan(runner.prepare(*settings))) == [
        *("data", *BINARY_STAGES),
        *(name for pair in zip(ROUNDS, MEMBERS, strict=True) for name in pair),
    ]
    assert list(first.stages) == BINARY_STAGES
    bits = member_bytes(first)
    assert bits["000"] != bits["001"]
    shutil.rmtree(runner.output / "members" / "001")
    again = runner(*settings)
    assert runner.taken == [MEMBERS[1]]
    assert member_bytes(again) == bits
    assert again.summary()["ensemble"] == first.summary()["ensemble"]


def test_a_finished_classifier_is_the_teacher_as_it_is(runner, tiny_checkpoint, tmp_path):
    first = runner("ensemble.members=1")
    trained = load_file(runner.output / "teacher" / "model.safetensors")
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "finished")
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"]}
    config |= {"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    save_file(trained, checkpoint / "model.safetensors", {"format": "pt"})
    taken = (f"model={checkpoint}", "teacher.epochs=0", "ensemble.members=1")
    second = runner(*taken, output=tmp_path / "second")
    teacher = load_file(tmp_path / "second" / "teacher" / "model.safetensors")
    assert all(teacher[name].equal(tensor) for name, tensor in trained.items())
    assert second.stages["teacher"].scores == first.stages["teacher"].scores
    status = look(Location.of(tmp_path / "second"))
    assert [(row.name, row.state) for row in status.rows if row.name == "teacher"] == [
        ("teacher", "done")
    ]
    config["id2label"] = {"0": "pos", "1": "neg"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="are pos, neg, and those of the task are neg, pos"):
        runner.prepare(*taken, output=tmp_path / "third")


def test_members_that_have_learnt_nothing_are_named(runner):
    results = runner(*BINARY, "teacher.epochs=1", "teacher.learning_rate=1e-9", "member.epochs=1")
    weak = [text for text in results.note.split("; ") if "chance on the selection split" in text]
    assert weak[0].startswith("binary-1-1-1 is no better than chance")


def test_a_layer_without_gradient_is_told_of(runner, monkeypatch):
    binarize_ = stages.binarize_

    def binarize_far_from_the_mean(model, *given, **options):
        binarize_(model, *given, **options)
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.data[:, ::2] += 50

    monkeypatch.setattr(stages, "binarize_", binarize_far_from_the_mean)
    runner(*BINARY)
    told = [event for event in runner.events if "no gradient" in event.get("text", "")]
    assert {event["stage"] for event in told} >= {"binary-1-1-2", "binary-1-1-1"}
    assert "bert.encoder.layer.0.output.dense.weight and " in told[0]["text"]


# --- trunks, baselines and the ensemble distilled back ------------------------------------------

RIVALS = [
    *("ensemble.baselines=[longer,wider]", "ensemble.distill=true", "ensemble.trunks=2"),
    *("ensemble.strategy=C", "ternary.joint=true", "member.joint=true"),
]


@pytest.fixture(scope="session")
def _rivals_once(tiny_run, make_runner, tmp_path_factory):
    runner = make_runner(tiny_run, tmp_path_factory.mktemp("rivals") / "run")
    return runner, runner(*RIVALS)


def test_members_of_two_trunks_their_baselines_and_the_student(_rivals_once):
    runner, results = _rivals_once
    trunks = [name + suffix for suffix in ("", "-trunk1") for name in STAGES[1:]]
    assert runner.taken[0] == "teacher"
    assert set(runner.taken) == {
        *("teacher", *trunks, *MEMBERS),
        *("longer", "half-wide", "ternary-wide", "split-wide", "wider", "distilled"),
    }
    assert runner.taken.index("distilled") > max(map(runner.taken.index, MEMBERS))
    assert list(results.rivals) == ["distilled", "longer", "wider"]
    assert {"split", "split-trunk1", "longer", "wider", "distilled"} <= set(results.baselines)
    for name, model in results.rivals.items():
        assert results.baselines[name]["score"] == results.headline(model.scores)
    assert results.rivals["wider"].bits > results.rivals["longer"].bits
    assert results.rivals["longer"].bits == results.members[0].bits
    halves = [results.stages[name] for name in ("half", "half-trunk1")]
    assert halves[0].scores != halves[1].scores or halves[0].seconds != halves[1].seconds
    ternary = [results.headline(results.stages[f"ternary{t}"].scores) for t in ("", "-trunk1")]
    assert results.start == pytest.approx(sum(ternary) / 2)
    rows = [row["model"] for row in results.table()]
    assert rows[-4:] == ["ensemble of 2", "distilled", "longer", "wider"]
    read = Results.from_json(json.loads(to_json(results.everything(), indent=2)))
    assert read == results


def test_a_trial_of_a_sweep_trains_none_of_them(_rivals_once):
    runner, _ = _rivals_once
    prepared = replace(runner.prepare(*RIVALS), is_trial=True)
    run, taken = Run(prepared, load_splits(prepared)), set()
    steps = run.start()
    while steps:
        step = steps.pop(0)
        taken.add(step.name)
        steps += run.advance(step, *found(step))
    assert run.finished
    trunks = [name + suffix for suffix in ("", "-trunk1") for name in STAGES[1:]]
    assert taken == {"teacher", *trunks, *MEMBERS}


def test_what_is_lost_of_them_is_made_again_and_nothing_else(_rivals_once):
    runner, results = _rivals_once
    weights = {
        name: (runner.output / name / "model.safetensors") for name in ("wider", "distilled")
    }
    before = {name: path.read_bytes() for name, path in weights.items()}
    for path in weights.values():
        shutil.rmtree(path.parent)
    shutil.rmtree(runner.output / "ternary-trunk1")
    assert runner(*RIVALS).summary()["members"] == results.summary()["members"]
    assert set(runner.taken) == {"ternary-trunk1", "wider", "distilled"}
    assert {name: path.read_bytes() for name, path in weights.items()} == before
    plan = make_plan(runner.prepare(*RIVALS))
    assert set(plan.values()) == {"done"}
