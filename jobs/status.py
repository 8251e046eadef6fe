"""Show where a run stands, also while it runs: `bebert status`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.status import main

if __name__ == "__main__":
    sys.exit(run_job(main))
