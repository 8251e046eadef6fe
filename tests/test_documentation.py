"""README.md is short, links lead somewhere, and commands in the pages exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bebert_ray.cli.main import COMMANDS
from bebert_ray.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def test_the_readme_has_at_most_1000_words() -> None:
    assert len(README.split()) <= 1000


def test_the_readme_begins_with_training_and_testing() -> None:
    first, second = re.findall(r"^```bash\n(.*?)^```", README, re.S | re.M)[:2]
    assert first.splitlines() == [
        "pip install torch==2.13.0 -e '.[demo]'",
        "bebert train --config quickstart",
    ]
    assert second.splitlines() == ["pip install torch==2.13.0 -e '.[test]'", "pytest"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    absent = [
        link for link in found if "://" not in link and not (page.parent / link).resolve().exists()
    ]
    assert not absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_jobs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"(?:^|`)bebert ([a-z]+)", text, re.M))
    assert commands <= set(COMMANDS)
    if page.name != "results.md":  # it has the commands of the version that was measured
        jobs = set(re.findall(r"\bjobs/[a-z_]+\.py", text))
        assert not [job for job in jobs if not (ROOT / job).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shipped_configurations_are_there_under_the_names_given(page: Path) -> None:
    names = re.findall(r"--config ([a-z0-9_]+)(?=[\s`])", page.read_text(encoding="utf-8"))
    for name in {name for name in names if not name.startswith("sweep")}:
        load_config(name, ["data.path=glue"] if name != "quickstart" else [])
    assert all((ROOT / "configs" / f"{name}.yaml").is_file() for name in names)
