"""Whose session of an MCP server (Mcp-Session-Id, protocol 2025-11-25) is whose. Pure.

What one agent has told a server lives on under that id, and who presents it speaks as that agent. So an id belongs to
the session of ours that the server gave it to, and is learnt from nothing else. Anyone else, and anyone after this
node has forgotten it, is answered as the server would answer for a session that is over: 404, upon which a client
begins a new one.
"""

from collections import OrderedDict

MAX_KNOWN = 10_000
"""As many as the official servers keep. The one not used for longest is forgotten."""
MAX_OF_SESSION = 64
"""Of one session of ours and one service: who begins one after the other makes this node forget only his own."""

Key = tuple[str, str]
"""Service and id."""


class Owners:
    """Sessions of ours by service and id."""

    def __init__(self, most: int = MAX_KNOWN, most_of_session: int = MAX_OF_SESSION) -> None:
        self._most = most
        self._most_of_session = most_of_session
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._of: dict[tuple[str, str], OrderedDict[str, None]] = {}
        """Ids by session and service, the one not used for longest first."""

    def owner(self, service: str, number: str) -> str | None:
        """The session that was given ``number``; None for one that no server gave, or that is forgotten."""
        owner = self._known.get((service, number))
        if owner is not None:
            self._use(service, number, owner)
        return owner

    def learn(self, service: str, number: str, session: str) -> bool:
        """The server gave ``number`` to ``session``; False where it is another's."""
        owner = self._known.setdefault((service, number), session)
        if owner != session:
            return False
        own = self._use(service, number, session)
        if len(own) > self._most_of_session:
            self._forget(service, next(iter(own)))
        if len(self._known) > self._most:
            self._forget(*next(iter(self._known)))
        return True

    def known(self, session: str) -> list[Key]:
        """Services and ids that are ``session``'s."""
        return [key for key, owner in self._known.items() if owner == session]

    def _use(self, service: str, number: str, session: str) -> OrderedDict[str, None]:
        self._known.move_to_end((service, number))
        own = self._of.setdefault((session, service), OrderedDict())
        own[number] = None
        own.move_to_end(number)
        return own

    def _forget(self, service: str, number: str) -> None:
        session = self._known.pop((service, number))
        own = self._of[session, service]
        del own[number]
        if not own:
            del self._of[session, service]
