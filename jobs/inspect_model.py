"""Show what a packed model costs: `bebert inspect`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.inspect_model import main

if __name__ == "__main__":
    sys.exit(run_job(main))
