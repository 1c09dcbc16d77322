"""Whose session of an MCP server (Mcp-Session-Id, protocol 2025-11-25) is whose. Pure.

What one agent has told a server lives on under that id, and who presents it speaks as that agent. So an id belongs to
the first session of ours that is seen with it. Anyone else is answered as the server would answer for a session that
is over: 404, upon which a client begins a new one.
"""

from collections import OrderedDict

MAX_KNOWN = 10_000
"""As many as the official servers keep. The one not used for longest is forgotten."""


class Owners:
    """Sessions of ours by service and id."""

    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    def take(self, service: str, number: str, session: str) -> bool:
        """Whether ``number`` is, or becomes, that of ``session``."""
        key = (service, number)
        owner = self._known.setdefault(key, session)
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return owner == session

    def known(self, session: str) -> list[tuple[str, str]]:
        """Services and ids that are ``session``'s."""
        return [key for key, owner in self._known.items() if owner == session]
