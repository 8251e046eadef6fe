"""What loading and running a packed model imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from transformers import BertForSequenceClassification, BertTokenizer

from bebert_ray.packed import load_model, packed_model

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "transformers", "safetensors", "numpy")
FOREIGN = (
    "ray",
    "datasets",
    "optuna",
    "pydantic",
    "rich",
    "pyarrow",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "tensorboardX",
)
LOAD = """
import sys
from transformers import AutoTokenizer
import bebert_ray.packed

directory = sys.argv[1]
model = bebert_ray.packed.load_model(directory)
tokenizer = AutoTokenizer.from_pretrained(directory + "/model")
print(model(**tokenizer("the film is good", return_tensors="pt")).logits.tolist())
"""
BARE = f"""
from importlib.util import find_spec
assert not [name for name in {FOREIGN} if find_spec(name)], "the room is not bare"
{LOAD}
from bebert_ray.errors import UserError
assert model.summary().members == 2
try:
    str(model.summary())
except UserError as error:
    assert "pip install rich" in str(error)
else:
    raise SystemExit("printed without rich")
"""
LISTED = f"""
{LOAD}
print(*sys.modules)
"""


@pytest.fixture
def run(
    member: Callable[..., BertForSequenceClassification], tokenizer: BertTokenizer, tmp_path: Path
) -> Path:
    """A run directory with a packed model of two members."""
    directory = tmp_path / "run"
    tokenizer.save_pretrained(directory / "model")
    model = packed_model([member(0), member(1)], [1.0, 0.5], ("no", "yes"), ["text"])
    model.save_pretrained(directory / "model")
    return directory


def python(script: str, *arguments: str, path: str, site: bool = True) -> str:
    """Run a script in a new interpreter, and give what it prints."""
    options = [] if site else ["-S"]
    environment = os.environ | {"PYTHONPATH": path}
    ended = subprocess.run(
        [sys.executable, *options, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture
def bare_site(tmp_path: Path) -> Path:
    """A directory of packages with the four that are needed and what these require.

    Of the requirements those of transformers' and huggingface_hub's commands are left out.
    """
    site = tmp_path / "site"
    site.mkdir()
    waiting, seen = list(NEEDED), set(FOREIGN) | {"typer"}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        for entry in {path.parts[0] for path in found.files or []} - {"..", "__pycache__"}:
            if not (site / entry).exists():
                (site / entry).symlink_to(Path(str(found.locate_file(entry))))
        for requirement in map(Requirement, found.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    (site / "bebert_ray").symlink_to(ROOT / "bebert_ray")
    return site


@pytest.mark.slow
def test_a_packed_model_runs_where_only_four_packages_are_installed(
    run: Path, bare_site: Path, tokenizer: BertTokenizer
) -> None:
    logits = load_model(run)(**tokenizer("the film is good", return_tensors="pt")).logits
    printed = python(BARE, str(run), path=str(bare_site), site=False)
    assert printed.split() == str(logits.tolist()).split()


def test_loading_imports_nothing_that_it_does_not_need(run: Path) -> None:
    imported = python(LISTED, str(run), path=str(ROOT)).splitlines()[-1].split()
    packages = {name.partition(".")[0] for name in imported}
    # transformers imports scipy where it is installed.
    assert packages & set(FOREIGN) <= {"scipy"}
    assert {"torch", "transformers", "safetensors", "numpy"} <= packages
    assert not {"bebert_ray.config", "bebert_ray.data", "bebert_ray.pipeline"} & set(imported)
