"""What volumes are called: ``<UTC of the beginning>-<ordinal, 8 hex>.jsonl``. Pure.

The ordinal puts them in order, whatever the wall clock did.
"""

import re
from datetime import UTC, datetime

from pki.clock import SECOND, Wall

_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{8,16})\.jsonl")
_TIME = "%Y%m%dT%H%M%SZ"


def name_of(ordinal: int, at: Wall) -> str:
    """The name of volume ``ordinal``, begun at ``at``."""
    return f"{datetime.fromtimestamp(at // SECOND, UTC).strftime(_TIME)}-{ordinal:08x}.jsonl"


def ordinal_of(name: str) -> int | None:
    """The ordinal that a name begins to spell, also of one with something behind it; None for no volume's name."""
    parts = _NAME.match(name)
    return int(parts[2], 16) if parts else None


def begun(name: str) -> Wall | None:
    """When the volume of this name was begun, by the clock that its node had; None for no volume's name."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    try:
        return Wall(int(datetime.strptime(parts[1], _TIME).replace(tzinfo=UTC).timestamp()) * SECOND)
    except ValueError:
        return None


def order_of(name: str) -> tuple[int, int, str]:
    """Puts volumes in order by name; what has no volume's name comes last."""
    parts = _NAME.fullmatch(name)
    return (1, 0, name) if parts is None else (0, int(parts[2], 16), name)
