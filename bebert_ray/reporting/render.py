"""HTML pages from templates, which share the style of `base.html`."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bebert_ray.reporting.charts import DARK, LIGHT


def render(template: str, **content: Any) -> str:
    """An HTML page without links to other files.

    Args:
        template: name of a file in `templates/` that extends `base.html`.
        content: the variables of the template.
    """
    environment = Environment(
        loader=PackageLoader("bebert_ray.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content, light=LIGHT, dark=DARK)
