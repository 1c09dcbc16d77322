"""What was let through only because its segment is observed, and not enforced, counted since the daemon started. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from sidecar.audit.record import Record

MAX_CAUSES = 1_000
"""Segments and reasons are few; a bound all the same."""


@dataclass(slots=True)
class Observed:
    """Records by segment and reason."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, record: Record) -> None:
        """Count ``record`` if it says so."""
        if record.fields.get("verdict") != "would_deny":
            return
        cause = str(record.fields.get("segment", "")), str(record.fields.get("reason", ""))
        if cause in self._counts or len(self._counts) < MAX_CAUSES:
            self._counts[cause] += 1

    def of(self, segment: str) -> dict[str, int]:
        """How often each reason would have refused in ``segment``."""
        return {reason: count for (name, reason), count in sorted(self._counts.items()) if name == segment}
