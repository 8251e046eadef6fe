"""What is checked before Ray starts."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

pytest.importorskip("uvicorn", reason="needs the extra serve")

from bebert_ray.errors import UserError
from bebert_ray.serving import run
from bebert_ray.serving.run import Service, check_extra, check_model, listener, serve
from bebert_ray.storage import Location


def check(model, cascade=False):
    return check_model(Location.parse(str(model)), 8, cascade)


@pytest.mark.parametrize(
    ("columns", "pairs"), [(None, None), (["text"], False), (["sentence1", "sentence2"], True)]
)
def test_whether_a_model_takes_pairs(model, tmp_path, columns, pairs):
    copy = shutil.copytree(model, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text()) | {"text_columns": columns}
    (copy / "config.json").write_text(json.dumps(config))
    card, found = check(copy)
    assert (card.labels, found) == (("negative", "positive"), pairs)


def damage_nothing_there(copy):
    shutil.rmtree(copy)


def damage_weights(copy):
    (copy / "model.safetensors").write_bytes(b"no tensors")


def damage_classifier(copy):
    tensors = load_file(copy / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "classifier" not in name}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})


def damage_tokenizer(copy):
    (copy / "tokenizer.json").unlink()


def damage_columns(copy):
    config = json.loads((copy / "config.json").read_text()) | {"text_columns": list("abc")}
    (copy / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing_there, "there is no model"),
        (damage_weights, "cannot be loaded"),
        (damage_classifier, "has no classifier.bias, classifier.weight"),
        (damage_tokenizer, "the tokenizer knows no word"),
        (damage_columns, "takes 3 texts, not one or two"),
    ],
)
def test_a_model_that_cannot_be_served_is_told_before_ray_starts(
    model, tmp_path, monkeypatch, damage, message
):
    monkeypatch.setattr(run, "connected", lambda _: pytest.fail("Ray was started"))
    copy = shutil.copytree(model, tmp_path / "model")
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        serve(Service(str(copy), port=0), None)
    assert str(error.value).startswith(str(copy))
    assert len(str(error.value)) < 500


def test_a_cascade_takes_a_model_that_has_one(model):
    with pytest.raises(UserError, match=r"--cascade: .* has none"):
        check(model, cascade=True)


def test_the_extra_is_named_with_how_to_install_it(monkeypatch):
    check_extra()
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'bebert_ray\[serve\]'"):
        check_extra()


def test_a_port_that_is_taken():
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            listener("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "192.0.2.77"])
def test_a_host_that_this_machine_is_not(host):
    with pytest.raises(UserError, match="--host ") as error:
        listener(host, 0)
    assert len(str(error.value)) < 300
