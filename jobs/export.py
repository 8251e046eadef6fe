"""Write a packed model for other engines: `bebert export`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.export import main

if __name__ == "__main__":
    sys.exit(run_job(main))
