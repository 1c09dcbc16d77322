"""Spans to a collector over OTLP/HTTP, beside the data path: nothing there ever waits for it.

A span is put into a bounded queue, and dropped and counted when that is full. A task takes batches out and has them
sent in a thread of their own, since the library blocks. A collector that does not answer costs its batch, which is
counted as dropped too, and one log line at the beginning and one at the end of it. At shutdown what waits has a second
to leave.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from pki.errors import LocalError
from sidecar.audit.record import Record
from sidecar.telemetry.spans import Span, Spans

QUEUE = 2_048
BATCH = 512
LINGER_SECONDS = 1.0
"""How long a batch waits for more."""
SEND_SECONDS = 5.0
LAST_SECONDS = 1.0

Send = Callable[[Sequence[Span]], bool]
"""Sends a batch, blocking; whether it was taken."""

_log = structlog.get_logger(__name__)


class Telemetry:
    """Of one node. ``dropped`` spans never left."""

    def __init__(self, node: str, send: Send) -> None:
        self.sent = 0
        self.dropped = 0
        self._spans = Spans(node)
        self._send = send
        self._put, self._take = trio.open_memory_channel[Span](QUEUE)
        self._thread = trio.CapacityLimiter(1)
        self._failing = False
        self._batch: list[Span] = []

    def note(self, record: Record) -> None:
        """Take the span that ``record`` completes. Never waits."""
        span = self._spans.take(record)
        if span is None:
            return
        try:
            self._put.send_nowait(span)
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                self._batch.append(await self._take.receive())
                with trio.move_on_after(LINGER_SECONDS):
                    while len(self._batch) < BATCH:
                        self._batch.append(await self._take.receive())
                await self._export()
        finally:
            with trio.move_on_after(LAST_SECONDS, shield=True):
                while self._fill():
                    await self._export()

    def _fill(self) -> int:
        """Take what waits into the batch, without waiting; how many it holds."""
        while len(self._batch) < BATCH:
            try:
                self._batch.append(self._take.receive_nowait())
            except trio.WouldBlock:
                break
        return len(self._batch)

    async def _export(self) -> None:
        batch, self._batch = self._batch, []
        taken = False
        try:
            taken = await trio.to_thread.run_sync(
                self._send, batch, limiter=self._thread, abandon_on_cancel=True
            )
        finally:
            if taken:
                self.sent += len(batch)
            else:
                self.dropped += len(batch)
        if taken is self._failing:
            self._failing = not taken
            if taken:
                _log.info("spans are taken again")
            else:
                _log.warning("spans are not taken: they are dropped until they are")


def otlp_sender(endpoint: str, node: str) -> Send:
    """Sends to ``endpoint``, the whole URL of a collector's traces; raises LocalError without the extra."""
    try:
        from sidecar.telemetry.otlp import OtlpSender  # noqa: PLC0415 - its library comes with an extra
    except ImportError:
        raise LocalError("otel: needs a library; run: pip install 'lockgate[otel]'") from None
    return OtlpSender(endpoint, node, SEND_SECONDS).send
