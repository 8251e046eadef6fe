"""Search for the best ensemble: `bebert sweep`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.sweep import main

if __name__ == "__main__":
    sys.exit(run_job(main))
