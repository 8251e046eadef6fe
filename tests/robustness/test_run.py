import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bebert_ray.boosting.vote import outputs
from bebert_ray.errors import UserError
from bebert_ray.pipeline.resources import Node
from bebert_ray.pipeline.results import MEAN_MEMBER
from bebert_ray.reporting.report import keep_robustness, load_results
from bebert_ray.reporting.robustness import Robustness, load_robustness
from bebert_ray.robustness import run as module
from bebert_ray.robustness.run import Request, measure_run
from bebert_ray.robustness.suites import parse_suites
from bebert_ray.robustness.work import CLEAN, Item, Subject, measure
from bebert_ray.storage import Location
from bebert_ray.training.work import load_logits


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    @contextmanager
    def connected(_):
        yield [Node(2, 0, 8e9)]

    def spread(work, shared, items, name, gpu):
        for item in reversed(items):  # in any order
            yield item, work(shared, item, torch.device("cpu"))

    monkeypatch.setattr(module, "connected", connected)
    monkeypatch.setattr(module, "spread", spread)


def request_of(run, *suites, **options):
    return Request(Location.of(run), parse_suites(suites), **options)


@pytest.fixture
def measured(run):
    return measure_run(request_of(run, "typos=0.2,0.9", "replace=0.5", "bits=0.01,0.5", repeats=2))


def test_clean_figures_are_those_of_the_run(run, measured):
    results = load_results(Location.of(run))
    clean = {name: figures["accuracy"] for name, figures in measured.clean.items()}
    wanted = {name: results.headline(stage.scores) for name, stage in results.stages.items()}
    wanted |= {member.name: results.headline(member.scores) for member in results.members}
    assert clean == pytest.approx(wanted | {"ensemble of 2": results.ensemble})
    assert measured.examples == 40


def test_members_say_what_they_say_in_the_run(run):
    place = Location.of(run)
    prepared = module._prepared(place)
    job = module._job(request_of(run), prepared, {}, replaces=False)
    subject = Subject("member 000", place / "members" / "000")
    said = measure(job, Item(subject, CLEAN), torch.device("cpu"))
    packed = measure(job, Item(replace(subject, remainder="fp16"), CLEAN), torch.device("cpu"))
    logits = load_logits(run / "members" / "000")["dev"]
    assert np.array_equal(packed[1.0, 0], outputs(logits[None])[0])
    assert not np.array_equal(said[1.0, 0], packed[1.0, 0])  # 16 bits are not 32


def test_curves_areas_and_what_has_no_bits(measured):
    typos, replace, bits = measured.suites
    assert set(typos.curves) == set(measured.clean)
    assert set(bits.curves) >= {"member 000", "member 001", "ensemble of 2"}
    assert not {"teacher", "half"} & set(bits.curves)
    curve = [point["accuracy"] for point in typos.curves["teacher"]]
    clean = measured.clean["teacher"]["accuracy"]
    area = (0.2 * (clean + curve[0]) / 2 + 0.7 * (curve[0] + curve[1]) / 2) / 0.9
    assert typos.areas["teacher"] == pytest.approx(area)
    assert typos.areas["teacher"] < clean  # a film that is bda is hard to tell
    mean = np.mean([typos.areas[name] for name in ("member 000", "member 001")])
    assert measured.area(typos, MEAN_MEMBER) == pytest.approx(mean)
    assert measured.area(bits, "teacher") is None
    assert len(replace.curves["teacher"]) == 1
    assert {"nll", "ece", "selective"} < set(replace.curves["teacher"][0])


def test_a_seed_gives_the_same_and_another_another(run):
    def measure(seed):
        return measure_run(request_of(run, "typos=0.5", "bits=0.3", seed=seed)).everything()

    assert measure(1) == measure(1)
    assert measure(1)["suites"] != measure(2)["suites"]


def test_it_is_read_back_until_the_run_has_other_results(run, measured):
    place = Location.of(run)
    keep_robustness(measured, place)
    results = load_results(place)
    assert load_robustness(results, place) == measured
    assert "Robustness" in (run / "report.html").read_text()
    assert (run / "robustness.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((run / "robustness.json").read_text())
    (run / "robustness.json").write_text(json.dumps(content | {"of": "others"}))
    assert load_robustness(results, place) is None
    for damaged in ("{", "[]", "{}", json.dumps(content | {"version": 9})):
        (run / "robustness.json").write_text(damaged)
        assert load_robustness(results, place) is None
    assert Robustness.from_json(content) == measured


def test_a_file_of_examples_has_a_score_of_its_own(run, tmp_path):
    path = tmp_path / "adv.json"
    examples = [{"text": "the plot is good", "label": "pos"}, {"text": "bad", "label": 0}]
    path.write_text(json.dumps(examples))
    [suite] = measure_run(Request(Location.of(run), [], files=[path])).suites
    assert suite.name == "file:adv"
    assert suite.areas["teacher"] == suite.curves["teacher"][0]["accuracy"]

    (tmp_path / "other").mkdir()
    same = tmp_path / "other" / "adv.json"
    with pytest.raises(UserError, match=r"other/adv\.json: another file is named adv too"):
        measure_run(Request(Location.of(run), [], files=[path, same]))


def test_another_classifier_is_measured_with_its_classes_in_order(run, tmp_path):
    from transformers import AutoTokenizer, BertForSequenceClassification

    other = BertForSequenceClassification.from_pretrained(run / "teacher")
    other.config.id2label = {0: "pos", 1: "neg"}
    other.config.label2id = {"pos": 0, "neg": 1}
    with torch.no_grad():
        for tensor in (other.classifier.weight, other.classifier.bias):
            tensor.copy_(tensor.flip(0))
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(run / "encoder").save_pretrained(tmp_path / "other")
    name = str(tmp_path / "other")
    measured = measure_run(request_of(run, "typos=0.5", "embeddings=0.5", "bits", models=[name]))
    assert measured.clean[name] == pytest.approx(measured.clean["teacher"])
    typos, noise, bits = measured.suites
    assert typos.areas[name] == pytest.approx(typos.areas["teacher"])
    assert name in noise.curves
    assert name not in bits.curves


def test_fewer_examples_are_a_seeded_choice(run):
    request = request_of(run, "truncate", examples=7)
    measured = measure_run(request)
    assert measured.examples == 7
    assert measured == measure_run(request)


def test_runs_that_cannot_be_measured(run, tmp_path):
    with pytest.raises(UserError, match="does not exist: the run is not finished"):
        measure_run(request_of(tmp_path / "nil"))
    shutil.rmtree(run / "data")
    with pytest.raises(UserError, match=r"not those that the run was made from any more \(absent"):
        measure_run(request_of(run))


def test_a_model_of_another_task(run):
    with pytest.raises(UserError, match="--model"):
        measure_run(request_of(run, models=[str(Path(run) / "nil")]))
