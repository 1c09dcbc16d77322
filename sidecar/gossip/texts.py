"""Policy texts, which travel deflated and by their digest: served in parts, fetched from one peer at a time.

The statement that names a text is signed, the text is not: its digest is its proof, and that is known only at the
end. So all parts of one try come from one peer; when they add up to something else, that peer sent it and loses its
link, and the next peer is asked from the start. A peer that does not hold the text, or falls silent, is passed over.
Two peers may deflate one text differently: that, too, is why parts of two are never put together.

What the parts add up to is inflated and judged by who has a thread for it: 32 MiB take a while.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from pki.errors import LocalError, RemoteError
from sidecar.packed import unpack
from sidecar.wire import Fetch, Object

PART_BYTES = 192 * 1024
PATIENCE_TICKS = 5
"""Seconds without a part after which another peer is asked."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this to that peer."""

    peer: str
    message: Fetch


@dataclass(frozen=True, slots=True)
class Whole:
    """All parts that ``peer`` sent. Nobody has looked at them yet."""

    peer: str
    digest: str
    size: int
    packed: bytes

    def text(self) -> bytes:
        """The text; raises RemoteError when the peer made it up. Takes long for a large one."""
        text = unpack(self.packed, self.size)
        if len(text) != self.size or hashlib.sha256(text).hexdigest() != self.digest:
            raise RemoteError("OBJECT: its content is not what its digest says")
        return text


@dataclass(slots=True)
class _Try:
    """One text that is being fetched, and how far the peer that is asked has come. No peer: nobody has it yet."""

    digest: str
    size: int
    peer: str = ""
    total: int = 0
    data: bytearray = field(default_factory=bytearray)
    silent: int = 0

    def restart(self, peer: str) -> None:
        self.peer, self.total, self.silent = peer, 0, 0
        self.data = bytearray()


class Fetching:
    """What is being fetched, one text at most. Pure: it says what to ask of whom. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._try: _Try | None = None
        self._asked: set[str] = set()

    @property
    def digest(self) -> str:
        """The digest of the text that is wanted, empty for none."""
        return self._try.digest if self._try else ""

    def want(self, digest: str, size: int) -> None:
        """Fetch this text from now on, and no other; raises LocalError for one too large to be held."""
        if size > self._limit:
            self._try = None
            raise LocalError(f"a text of {size} bytes, at most {self._limit} are kept here")
        if digest != self.digest:
            self._try = _Try(digest, size)
            self._asked.clear()

    def stop(self, digest: str = "") -> None:
        """It is here: fetch it no longer, nor (by default) any other."""
        if digest in ("", self.digest):
            self._try = None

    def tick(self, peers: Iterable[str]) -> Ask | None:
        """Once a second, and when one is wanted: whom of the peers with a link to ask, unless an answer is under way."""
        wanted, linked = self._try, set(peers)
        if wanted is None:
            return None
        wanted.silent += 1
        if wanted.peer in linked and wanted.silent <= PATIENCE_TICKS:
            return None
        if linked <= self._asked:
            self._asked.clear()
        return self._ask_another(wanted, linked)

    def take(self, peer: str, part: Object, peers: Iterable[str]) -> Ask | Whole | None:
        """A part came: what to ask next, or all of it, or None for a part that nobody waits for.

        Raises RemoteError when the peer sent what cannot be the text. Until :meth:`stop`, another is asked at the
        next tick.
        """
        wanted = self._try
        if wanted is None or part.digest != wanted.digest or peer != wanted.peer:
            return None
        if part.total == 0:
            return self._ask_another(wanted, set(peers))
        fault = _fault(wanted, part)
        if fault:
            wanted.restart("")
            raise RemoteError(f"OBJECT: {fault}")
        wanted.total = part.total
        wanted.data += part.data
        wanted.silent = 0
        if len(wanted.data) < wanted.total:
            return Ask(peer, Fetch(digest=wanted.digest, offset=len(wanted.data)))
        whole = Whole(peer, wanted.digest, wanted.size, bytes(wanted.data))
        wanted.restart("")
        return whole

    def _ask_another(self, wanted: _Try, linked: set[str]) -> Ask | None:
        # Each is asked once before any is asked again, or peers that all lack it would be asked without a pause.
        peer = min(linked - self._asked, default="")
        wanted.restart(peer)
        if not peer:
            return None
        self._asked.add(peer)
        return Ask(peer, Fetch(digest=wanted.digest, offset=0))


def part_of(packed: bytes | None, wanted: Fetch) -> Object:
    """The answer to ``wanted`` from the deflated text; without it, that it is not held."""
    held = packed or b""
    data = held[wanted.offset : wanted.offset + PART_BYTES]
    return Object(digest=wanted.digest, offset=wanted.offset, total=len(held), data=data)


def _fault(wanted: _Try, part: Object) -> str:
    """Why this part cannot belong to the text; empty when it may."""
    if part.total > longest_packed(wanted.size):
        return "longer than its statement says"
    is_next = part.offset == len(wanted.data) and part.data and wanted.total in (0, part.total)
    if not is_next or len(wanted.data) + len(part.data) > part.total:
        return "not the part of the text that was asked for"
    return ""


def longest_packed(size: int) -> int:
    """What a text of ``size`` bytes takes at most on its way: zlib adds 5 bytes to each 16 KiB that do not shrink."""
    return size + size // 1_000 + 64
