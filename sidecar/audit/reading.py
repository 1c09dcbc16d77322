"""The lines of a whole log, for those who read it and do not judge it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pki.clock import Wall
from pki.errors import LocalError, RemoteError
from sidecar.audit.lines import extent, forward
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk


def lines_in(disk: Disk, folder: Path) -> Iterator[bytes]:
    """Oldest first; of a damaged compressed volume as far as it goes. Raises LocalError for no log."""
    try:
        names = volume_names(disk, folder)
        if not names:
            raise LocalError(f"{folder}: holds no volume of an audit log")
        for name in names:
            with suppress(RemoteError):
                yield from forward(disk, folder / name, 0, extent(disk, folder / name).complete)
    except OSError as error:
        raise LocalError(f"{folder}: {error.strerror}") from None


def record_of(line: bytes) -> dict[str, Any] | None:
    """A line decoded, None for what is no record: `audit verify` names it."""
    with suppress(ValueError, RecursionError):
        body = json.loads(line)
        return body if isinstance(body, dict) else None
    return None


def is_since(body: dict[str, Any], since: Wall) -> bool:
    """Whether a record was written at ``since`` or later, by its node's clock."""
    at = body.get("at")
    return isinstance(at, int) and at >= since
