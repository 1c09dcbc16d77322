"""What a tool's node knows of its MCP servers, over all streams: pins, kept on disk, and whose session is whose."""

import structlog
import trio

from pki.errors import LocalError
from sidecar.mcp.owners import Owners
from sidecar.mcp.pinfile import PinFile
from sidecar.mcp.pins import Changed, Key, Pin, Pins

RETRY_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Servers:
    """One for a node. Without a ``file`` pins last as long as the process."""

    def __init__(self, file: PinFile | None = None, drifted: Changed = lambda _key, _pin: None) -> None:
        """``drifted`` is told of a tool that is seen as another than it was. Raises LocalError for a damaged file."""
        self._file = file
        self._drifted = drifted
        self._changed = trio.Event()
        self._writing = trio.Lock()
        self.owners = Owners()
        self.pins = Pins(file.read() if file else {}, self._see)

    async def approve(self, service: str, tool: str, seen: str) -> Pin:
        """The definition seen last counts, durably; raises LocalError."""
        pin = self.pins.approve(service, tool, seen)
        await self._save()
        return pin

    async def run(self) -> None:
        """Keep what is seen, for ever. A disk that fails loses nothing but what a crash then loses, too."""
        while True:
            await self._changed.wait()
            try:
                await self._save()
            except LocalError as error:
                log.error("pins of tools are not kept", why=str(error))
                await trio.sleep(RETRY_SECONDS)
                self._changed.set()

    def _see(self, key: Key, pin: Pin) -> None:
        self._changed.set()
        if pin.drifted:
            self._drifted(key, pin)

    async def _save(self) -> None:
        async with self._writing:
            self._changed = trio.Event()
            if self._file is not None:
                await trio.to_thread.run_sync(self._file.write, dict(self.pins))
