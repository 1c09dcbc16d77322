"""Dial many places at once and hang up: which of them give a connection? Nothing is sent.

For the command line: it blocks, on plain sockets, and it may run in a forked child that is another user.
"""

import errno
import selectors
import socket
import time
from collections.abc import Iterable

from sidecar.address import Address
from sidecar.policy.target import UNIX

DIAL_SECONDS = 3.0
"""For all of them together. A rule that drops packets in silence answers as late as this."""


def knock(places: Iterable[str], seconds: float = DIAL_SECONDS) -> frozenset[str]:
    """Those of ``places`` (``host:port`` or ``unix:/path``) that give this very user a connection."""
    reached: set[str] = set()
    waiting: dict[socket.socket, str] = {}
    for place in dict.fromkeys(places):
        for end, code in _dial(place):
            if code == errno.EINPROGRESS:
                waiting[end] = place
                continue
            end.close()
            if code == 0:
                reached.add(place)
    return frozenset(reached | _answered(waiting, time.monotonic() + seconds))


def _dial(place: str) -> Iterable[tuple[socket.socket, int]]:
    """A connection under way to each address of a place, and how far it has come (errno)."""
    if place.startswith(UNIX):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = end.connect_ex(place.removeprefix(UNIX))
        yield end, 0 if code == errno.EAGAIN else code  # Its backlog is full: it is there, and open to us.
        return
    address = Address.parse(place)
    try:
        # As bytes: for text Python would load a codec, from files that this user may not be allowed to read.
        found = socket.getaddrinfo(address.host.encode(), address.port, type=socket.SOCK_STREAM)
    except OSError:
        return
    for family, kind, protocol, _, sockaddr in found:
        end = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        yield end, end.connect_ex(sockaddr)


def _answered(waiting: dict[socket.socket, str], deadline: float) -> set[str]:
    reached = set()
    with selectors.DefaultSelector() as selector:
        for end in waiting:
            selector.register(end, selectors.EVENT_WRITE)
        left = dict(waiting)
        while left and (seconds := deadline - time.monotonic()) > 0:
            done = {key.fd for key, _ in selector.select(seconds)}
            for end in [one for one in left if one.fileno() in done]:
                selector.unregister(end)
                if not end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    reached.add(left[end])
                del left[end]
    for end in waiting:
        end.close()
    return reached
