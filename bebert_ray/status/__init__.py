"""Where a run stands, by what is in its directory: for a look from outside, also while it runs.

Quick: neither torch nor Ray is imported, and nothing is hashed.
"""

from bebert_ray.status.look import Row, Status, look
from bebert_ray.status.table import print_status

__all__ = ["Row", "Status", "look", "print_status"]
