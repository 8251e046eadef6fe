"""Ray metrics: what the steps report, as gauges that Prometheus and the dashboard read."""

from __future__ import annotations

from ray.util.metrics import Gauge

from bebert_ray.reporting.events import Event

# By the key of the event: the gauge's name and what it tells.
_GAUGES = {
    "step": ("step", "training steps done in the present fit"),
    "loss": ("loss", "training loss"),
    "learning_rate": ("learning_rate", "learning rate"),
    "score": ("held_out_score", "primary metric on the selection split"),
    "examples_per_second": ("examples_per_second", "training examples a second"),
    "memory": ("memory_bytes", "the most memory that the process has held"),
    "error": ("weighted_error", "weighted error of a boosted member"),
    "alpha": ("alpha", "weight of a member in the vote"),
}


class Gauges:
    """Gauges `bebert_ray_loss` and so on, of the step `stage` of the run `run`; needs Ray.

    Args:
        run: the run directory, for people.
    """

    def __init__(self, run: str):
        self._run = run
        self._gauges = {
            key: Gauge(f"bebert_ray_{name}", text, tag_keys=("run", "stage"))
            for key, (name, text) in _GAUGES.items()
        }

    def show(self, event: Event) -> None:
        """Set those that the event has a value for; see `recorder`."""
        tags = {"run": self._run, "stage": event["stage"]}
        for key in self._gauges.keys() & event.keys():
            self._gauges[key].set(event[key], tags)  # None is passed over
