"""`python -m bebert_ray` is the command `bebert`."""

import sys

from bebert_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
