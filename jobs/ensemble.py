"""Train and evaluate an ensemble of binary BERTs: `bebert train`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.train import main

if __name__ == "__main__":
    sys.exit(run_job(main))
