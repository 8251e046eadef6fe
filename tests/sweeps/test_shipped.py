import re
from pathlib import Path

import pytest

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
