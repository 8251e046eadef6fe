"""`bebert serve`: what is wrong with a command line is told before anything starts."""

import pytest

from bebert_ray.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DIR"),
        (["m", "--port", "65536"], "'65536' is not a port"),
        (["m", "--port", "http"], "'http' is not a port"),
        (["m", "--replicas", "0"], "'0' is not a whole number above 0"),
        (["m", "--batch-size", "x"], "'x' is not a whole number above 0"),
        (["m", "--replicas", "2", "--max-replicas", "3"], "give --replicas, or --min-replicas"),
        (["m", "--min-replicas", "3", "--max-replicas", "2"], "--max-replicas 2 is less than"),
    ],
)
def test_a_wrong_flag_shows_how_to_use_it(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["serve", *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "usage: bebert serve" in printed
    assert message in printed


def test_a_model_that_is_not_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    assert main(["serve", str(tmp_path / "x")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {tmp_path / 'x'}: there is no model")
    assert len(printed.err.splitlines()) == 1


def test_without_the_extra(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("bebert_ray.serving.run.check_model", lambda *_: (None, None))
    monkeypatch.setattr("bebert_ray.serving.run.find_spec", lambda name: None)
    assert main(["serve", str(tmp_path)]) == 2
    assert "pip install 'bebert_ray[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], (1, None)), (["--min-replicas", "2"], (2, None)), (["--replicas", "3"], (3, 3))],
)
def test_a_signal_ends_it_with_0(capsys, monkeypatch, given, expected):
    asked = []

    def serve(service, progress):
        asked.append((service.min_replicas, service.max_replicas))
        raise KeyboardInterrupt

    monkeypatch.setattr("bebert_ray.serving.run.serve", serve)
    assert main(["serve", "m", *given]) == 0
    assert asked == [expected]
    assert "ended" in capsys.readouterr().err
