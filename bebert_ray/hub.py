"""Whether the Hugging Face hub answers, found out in a bounded time."""

from __future__ import annotations

import threading
from typing import Any

PROBE_SECONDS = 2.0
"""Seconds that a hub has for any answer. After them it counts as unreachable."""


def is_reachable(endpoint: str) -> bool:
    """Tell whether a hub answers within `PROBE_SECONDS`. Any answer counts, an error too.

    Args:
        endpoint: URL of the hub, such as https://huggingface.co.
    """
    from huggingface_hub import get_session

    answers: list[Any] = []

    def probe() -> None:
        try:
            answers.append(get_session().head(endpoint, timeout=PROBE_SECONDS))
        except Exception:  # no answer, for whatever reason
            return

    # A thread, because no timeout of the HTTP client covers a name server that does not answer.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)
