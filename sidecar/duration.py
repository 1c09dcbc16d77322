"""Durations as humans write them: ``200ms``, ``30s``, ``5m``, ``1h``, ``2d``."""

import re

from pki.clock import DAY, HOUR, MINUTE, SECOND
from pki.errors import LocalError

_UNITS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": SECOND // 1000}
_DURATION = re.compile(r"([0-9]{1,9})(ms|[smhd])")


def parse_duration(text: str) -> int:
    """Microseconds of one number and unit; raises LocalError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise LocalError('not a duration such as "30s", "5m", "1h" or "2d"')
    return int(match[1]) * _UNITS[match[2]]


def format_duration(duration: int) -> str:
    """The shortest spelling of ``duration`` (us) in one unit; what is below a millisecond is dropped."""
    for unit, size in _UNITS.items():
        if duration and duration % size == 0:
            return f"{duration // size}{unit}"
    return f"{duration // _UNITS['ms']}ms" if duration else "0s"
