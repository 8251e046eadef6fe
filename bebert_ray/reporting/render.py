"""The templates of pages, which have their looks in common (`base.html`)."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bebert_ray.reporting.charts import DARK, LIGHT


def render(template: str, **content: Any) -> str:
    """An HTML page that needs nothing but itself.

    Args:
        template: name of a file beside this one, which extends `base.html`.
        content: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("bebert_ray.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content, light=LIGHT, dark=DARK)
