"""What the project promises, measured; see `jobs/benchmark.py` and `jobs/chaos.py`."""
