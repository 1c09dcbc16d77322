"""Server-sent events (WHATWG HTML, section 9.2): taken apart as they come, and put together anew. Pure.

An agent's reader and ours could differ on the same bytes (a lone CR ends a line, a BOM is skipped). So nothing is
passed as it came: an event is read here, looked into, and spelled in one way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pki.errors import RemoteError

MAX_EVENT_BYTES = 4 * 1024 * 1024
MAX_ID_CHARS = 1_024
KEEP_ALIVE = b":\n\n"
"""A comment: tells whoever waits that the stream lives."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``data`` is empty, too, in one that only sets ``id`` or ``retry`` (milliseconds)."""

    data: str = ""
    type: str = ""
    id: str | None = None
    retry: int | None = None

    def spelled(self) -> bytes:
        lines = [f"event: {self.type}"] if self.type else []
        lines += [f"id: {self.id}"] if self.id is not None else []
        lines += [f"retry: {self.retry}"] if self.retry is not None else []
        lines += [f"data: {line}" for line in self.data.split("\n")]
        return "".join(f"{line}\n" for line in [*lines, ""]).encode()


class Reader:
    """Events out of pieces of a stream, however it is cut."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._after_cr = False
        self._begun = False

    @property
    def held(self) -> int:
        """Bytes of the event that has begun."""
        return self._size

    def feed(self, data: bytes) -> Iterator[Event | None]:
        """The events that ``data`` completes; None for a comment. Raises RemoteError for what is no event."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        if data:
            self._after_cr = data.endswith(b"\r")
        for piece in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").splitlines(keepends=True):
            self._take(piece)
            if piece.endswith(b"\n"):
                line = self._whole_line()
                if not line and self._lines:
                    yield self._event()
                elif line.startswith(b":"):
                    yield None
                elif line:
                    self._lines.append(line)

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise RemoteError(f"an event of over {MAX_EVENT_BYTES} bytes")
        self._line += piece

    def _whole_line(self) -> bytes:
        line = bytes(self._line).removesuffix(b"\n")
        self._line.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not self._lines:
            self._size = len(line)
        return line

    def _event(self) -> Event:
        lines, self._lines, self._size = self._lines, [], 0
        try:
            fields = [line.decode().partition(":")[::2] for line in lines]
        except UnicodeDecodeError:
            raise RemoteError("an event that is not UTF-8") from None
        named = {name: value.removeprefix(" ") for name, value in fields}
        data = "\n".join(value.removeprefix(" ") for name, value in fields if name == "data")
        number, retry = named.get("id"), named.get("retry", "")
        if number is not None and ("\x00" in number or len(number) > MAX_ID_CHARS):
            number = None
        milliseconds = int(retry) if retry.isascii() and retry.isdigit() and len(retry) <= 9 else None
        return Event(data, named.get("event", ""), number, milliseconds)
