import re
from pathlib import Path

import pytest

from bebert_ray.config import load_config
from bebert_ray.errors import UserError
from bebert_ray.sweeps.settings import load_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SWEEPS = sorted(CONFIGS.glob("sweep_*.yaml"))


def test_there_is_a_sweep_of_the_demo_and_one_of_mrpc() -> None:
    assert {path.stem for path in SWEEPS} >= {"sweep_demo", "sweep_mrpc"}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep(path: Path) -> None:
    sweep = load_sweep(path)
    header = path.read_text().partition("\n\n")[0]
    launch = re.search(r"^#   bebert sweep --config (\S+)(.*)$", header, re.M)
    assert launch is not None, "the header has no launch line"
    assert launch[1] == path.stem
    assert load_sweep(path, launch[2].split()).config.seed == sweep.config.seed
    assert sweep.config.output == f"runs/{path.stem}"
    assert sweep.first_point.keys() == {dimension.key for dimension in sweep.space}


def test_a_run_does_not_take_the_configuration_of_a_sweep() -> None:
    with pytest.raises(UserError) as refusal:
        load_config("sweep_demo")
    assert "sweep: is a section of sweeps, which `bebert sweep` runs" in str(refusal.value)
    assert "unknown key" not in str(refusal.value)
