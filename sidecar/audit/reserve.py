"""Space that is kept for a full disk: what stops and what is refused is on record even then (DIR/lib/audit-reserve).

The file holds nothing. When the disk is full it is removed, and what it took is there for the next volume. When it can
be made again there is space again. Other programs on a full disk may be quicker: a file system of its own for
DIR/lib is the only cure.
"""

import errno
from contextlib import suppress

from sidecar.audit.record import Kind
from sidecar.audit.volume import Site

URGENT = frozenset(
    {
        Kind.CUT,
        Kind.DENIED,
        Kind.SHED,
        Kind.LOCK,
        Kind.REVOCATION,
        Kind.FINDING,
        Kind.RECOVERY,
        Kind.START,
        Kind.STOP,
    }
)
"""What is written on a full disk. All else waits in memory."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether the disk has no room, and is not broken."""
    return error.errno in _FULL


def take(site: Site) -> bool:
    """Set the reserve aside, if it is not there; whether it is there now. Blocking."""
    if site.reserve_bytes == 0:
        return True
    try:
        site.disk.make_folder(site.reserve.parent)
        with suppress(FileNotFoundError):
            if site.disk.size(site.reserve) == site.reserve_bytes:
                return True
            site.disk.remove(site.reserve)
        site.disk.allocate(site.reserve, site.reserve_bytes)
    except OSError as error:
        return not is_full(error)  # a disk that is broken shows when it is written to
    return True


def release(site: Site) -> None:
    """Make room. Blocking."""
    with suppress(OSError):
        site.disk.remove(site.reserve)
