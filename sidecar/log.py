"""Logs of a daemon: JSON or text lines on stderr. Never per packet, and never a flood of the same line."""

import sys
from collections import Counter
from dataclasses import dataclass, field

import structlog
import trio

QUIET_SECONDS = 10.0
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(level: str, *, as_json: bool = False) -> None:
    """Set up the process's logger, again at each reload; ``level`` is one of LEVELS."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _harmless,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # A cached one would never hear of a reload's level.
    )


def _harmless(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Strangers' text ends up in lines (paths, messages), and to a terminal control characters are commands."""
    return {key: _visible(value) if isinstance(value, str) else value for key, value in event.items()}


def _visible(text: str) -> str:
    return "".join(
        char
        if char.isprintable() or char == "\n"
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


@dataclass
class Refusals:
    """Counts refusals by cause and logs each cause at most once in QUIET_SECONDS, with the count since."""

    counts: Counter[str] = field(default_factory=Counter)
    _logged: dict[str, tuple[float, int]] = field(default_factory=dict)

    def note(self, cause: str, why: str, **context: object) -> int:
        """How many the line that was logged stands for; 0: none was."""
        self.counts[cause] += 1
        now = trio.current_time()
        last, count = self._logged.get(cause, (-QUIET_SECONDS, 0))
        if now - last < QUIET_SECONDS:
            return 0
        self._logged[cause] = (now, self.counts[cause])
        since = self.counts[cause] - count
        structlog.get_logger(__name__).warning("refused", cause=cause, why=why, count=since, **context)
        return since
