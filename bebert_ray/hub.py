"""Whether the Hugging Face hub answers, found out in a bounded time."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

PROBE_SECONDS = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 10)
"""Seconds that a hub has for any answer: as many as `huggingface_hub` gives a head."""

_log = logging.getLogger(__name__)


def is_reachable(endpoint: str) -> bool:
    """Tell whether a hub answers in time. Any answer counts, an error too; no answer is warned of.

    It has `PROBE_SECONDS`: HF_HUB_ETAG_TIMEOUT, 10 by default.

    Args:
        endpoint: URL of the hub, such as https://huggingface.co.
    """
    from huggingface_hub import get_session

    outcome: list[Any] = []

    def probe() -> None:
        try:
            outcome.append(get_session().head(endpoint, timeout=PROBE_SECONDS))
        except Exception as error:  # no answer, for whatever reason
            outcome.append(error)

    # A thread, because no timeout of the HTTP client covers a name server that does not answer.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if outcome and not isinstance(outcome[0], Exception):
        return True
    reason = f"no answer in {PROBE_SECONDS:g} s (HF_HUB_ETAG_TIMEOUT sets how long to wait)"
    if outcome and "timed out" not in str(outcome[0]):
        reason = " ".join(str(outcome[0]).split())[:150] or repr(outcome[0])
    _log.warning(
        "the hub %s is taken for unreachable, and only its cache is used: %s; HF_HUB_OFFLINE=1 "
        "skips the question",
        *(endpoint, reason),
    )
    return False
