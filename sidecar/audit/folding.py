"""Folding of like refusals, so that who is refused ten thousand times a second cannot flood the log. Pure.

The first LIMIT refusals of one cause in a window pass as they are. The rest are counted, and when the
window closes the last of them stands for all, with ``count`` and ``since``. Nothing is left uncounted.

A cause is what the log's reader would call the same refusal: reason, rule, which session, and for which operation: a
probe must not hide among ten refusals of something else, and no session may answer for another's. An agent may vary what it asks for, so causes are bounded too:
beyond CAUSES in one window, refusals share one cause per reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pki.clock import SECOND
from sidecar.audit.record import Kind, Record, folded

FOLDED = frozenset({Kind.DENIED, Kind.SHED})
LIMIT = 10
WINDOW = SECOND
CAUSES = 1_000

_CAUSE = ("reason", "agent", "session", "service", "peer", "uid", "rule", "operation")


@dataclass(slots=True)
class _Window:
    closes: int
    passed: int = 0
    count: int = 0
    first: Record | None = None
    last: Record | None = None


class FoldedRefusals:
    """Times are microseconds of any clock that never jumps."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, ...], _Window] = {}

    def admit(self, refusal: Record, now: int) -> list[Record]:
        """What to write now for ``refusal``: what has come due, and itself unless it is folded."""
        ready = self.due(now)
        window = self._window(refusal, now)
        if window.passed < LIMIT:
            window.passed += 1
            return [*ready, refusal]
        window.count += 1
        window.first = window.first or refusal
        window.last = refusal
        return ready

    def due(self, now: int) -> list[Record]:
        """The folded records of the windows that have closed by ``now``."""
        ready: list[Record] = []
        # A dict keeps the order of insertion and all windows are as long: the first to close stand first.
        while self._windows and (window := next(iter(self._windows.values()))).closes <= now:
            del self._windows[next(iter(self._windows))]
            ready += _stand_in(window)
        return ready

    def flush(self) -> list[Record]:
        """All that is still held, at the end."""
        windows, self._windows = self._windows, {}
        return [record for window in windows.values() for record in _stand_in(window)]

    def next_deadline(self) -> int | None:
        """When the first window closes."""
        return next((window.closes for window in self._windows.values()), None)

    def _window(self, refusal: Record, now: int) -> _Window:
        cause = _cause(refusal)
        if cause not in self._windows and len(self._windows) >= CAUSES:
            cause = cause[:2]
        return self._windows.setdefault(cause, _Window(now + WINDOW))


def _cause(refusal: Record) -> tuple[str, ...]:
    return (refusal.kind, *(str(refusal.fields.get(key)) for key in _CAUSE))


def _stand_in(window: _Window) -> Iterator[Record]:
    if window.first is not None and window.last is not None:
        yield folded(window.last, window.count, window.first.at)
