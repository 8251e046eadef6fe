"""Score files of texts with a finished model: `bebert predict`, as a Ray job."""

import sys

from bebert_ray.cli.common import run_job
from bebert_ray.cli.predict import main

if __name__ == "__main__":
    sys.exit(run_job(main))
