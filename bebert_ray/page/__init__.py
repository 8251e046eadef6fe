"""`report.html`: one page about a finished run, which needs nothing but itself."""

from bebert_ray.page.content import page

__all__ = ["page"]
