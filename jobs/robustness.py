"""Measure a finished run under perturbations: `bebert robustness`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.robustness import main

if __name__ == "__main__":
    sys.exit(run_job(main))
