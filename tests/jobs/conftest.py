"""Fixtures for the jobs."""

import pytest


@pytest.fixture
def refused(request, tiny_run, tmp_path, capsys, monkeypatch):
    """Runs the module's job (`run_here`), which must refuse its input; returns the message."""
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    output = tmp_path / request.module.SCRIPT.stem

    def refused(*overrides):
        before = sorted(tmp_path.rglob("*"))
        assert request.module.run_here(*tiny_run, f"output={output}", *overrides) == 2
        assert sorted(tmp_path.rglob("*")) == before
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert "Traceback" not in printed.err
        return printed.err.removeprefix("error: ")

    return refused
