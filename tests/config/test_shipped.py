import re
from pathlib import Path

import pytest
import yaml

from bebert_ray.config import Config, differing_keys, load_config, to_dict
from bebert_ray.data.tasks import TASKS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("sweep_"))


def test_there_is_a_quickstart_and_one_config_for_each_glue_task():
    assert {"quickstart", *TASKS} - {"demo"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config(path):
    text = path.read_text(encoding="utf-8")
    config = load_config(path)
    header = text.partition("\n\n")[0]

    assert all(line.startswith("#") for line in header.splitlines())
    launch = re.search(r"^#   bebert train --config (\S+)(.*)$", header, re.M)
    assert launch is not None, "the header has no launch line"
    assert launch[1] == path.stem
    assert load_config(path, launch[2].split()).seed == config.seed
    assert ("data.path" in launch[2]) == (config.task != "demo")
    if path.stem in TASKS:
        assert config.task == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_holds_only_what_differs_from_the_defaults(path):
    config = load_config(path)
    # The width follows from the bits.
    defaults = to_dict(Config(task=config.task, bits=config.bits))
    changed = {key for key, _, _ in differing_keys(defaults, to_dict(config))}
    if config.bits != Config(task=config.task).bits:
        changed.add("bits")
    written = {key for key, _, _ in differing_keys({}, yaml.safe_load(path.read_text()))}
    assert written == changed | {"task"}
