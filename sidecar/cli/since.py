"""From when on: so long ago, or an instant."""

import time
from contextlib import suppress
from datetime import datetime

from pki.clock import SECOND, Wall
from pki.errors import LocalError
from sidecar.cli.values import Parsed
from sidecar.duration import parse_duration


def parse_since(text: str) -> Wall:
    """``0`` (the beginning), a duration before now, or an ISO 8601 time with its offset; raises LocalError."""
    if text == "0":
        return Wall(0)
    with suppress(LocalError):
        return Wall(time.time_ns() // 1_000 - parse_duration(text))
    with suppress(ValueError):
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return Wall(round(at.timestamp() * SECOND))
    raise LocalError("no duration (2h) and no time with its offset (2026-12-01T09:00:00Z)")


SINCE = Parsed("since", parse_since)
