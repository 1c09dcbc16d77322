"""The one writer of a node's audit log: group commit over the disk seam, from a thread of its own.

- Records are written in the order in which `append` and `commit` were called. All that wait when a write
  begins share that write and its fdatasync; while it runs, the next group gathers.
- `commit` returns once its record is durable. `append` only promises a try: durable within 50 ms, and what
  does not come about is counted (:attr:`AuditWriter.lost`) and the count recorded as soon as the log can be
  written.
- When the disk fails, that volume is finished, and whoever waits in `commit` is told so. The records that
  nobody waits for are kept and go into the next volume, which is tried at once and then with growing
  pauses. Until it stands, `commit` fails at once.
- On a full disk the reserve is given up for what stops and what is refused (:mod:`sidecar.audit.reserve`). `commit`
  fails at once and the other records wait, until there is room for the reserve again.
- A volume that has grown to its size is closed, and the next one begun.
- A checkpoint stands behind each volume's first records, then every so many and so long, and at the end.
- What records name by digest is kept before them (`keep`).
- A disk that hangs is a disk that fails: `available` turns false after STALL, `commit` gives up after
  COMMIT_TIMEOUT. Only then the record may come to stand in the log although its `commit` failed.
- Refusals given to `append` are folded (:mod:`sidecar.audit.folding`), so that nobody can forget to.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import trio

from pki.clock import SECOND, Clock
from pki.errors import LocalError
from sidecar.audit import reserve
from sidecar.audit.chain import Head
from sidecar.audit.checkpoint import EVERY_SECONDS, Note, Pen, Signatory
from sidecar.audit.folding import FOLDED, FoldedRefusals
from sidecar.audit.record import ENVELOPE_BYTES, Record, finding, recovery
from sidecar.audit.volume import Site, Volume, open_volume
from sidecar.objects import Objects

LINGER = 0.02
"""How long a record that nobody waits for may wait for company (s); the rest of the 50 ms is for the disk."""
STALL = 2.0
COMMIT_TIMEOUT = 5.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Between two tries to open a volume (s)."""
MAX_PENDING_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


class AuditUnavailableError(LocalError):
    """The record is not known to be durable: what depends on it must not happen."""


class Offload(Protocol):
    """Runs blocking work off the loop."""

    async def __call__(self, work: Callable[[], T], /) -> T: ...


class AuditWriter:
    """Start `run` in a nursery; `append` and `commit` from any task; `close` when those have stopped."""

    def __init__(self, site: Site, clock: Clock, offload: Offload | None = None) -> None:
        self.lost = 0
        """Records that were given to `append` and never came to stand in the log."""
        self.head: Head | None = None
        """The last durable record."""
        self.trouble = "not started"
        """Why the log cannot be written now; empty if it can."""
        self.broken = ""
        """Why the volume of an earlier start could not be continued; empty if it could."""
        self.signatory: Callable[[], Signatory | None] = lambda: None
        """Who signs the log now; None: nobody, and it carries no checkpoints."""
        self.objects: Objects | None = None
        """Where bodies go that records name by their digest."""
        self.note: Note | None = None
        """The newest durable checkpoint."""
        self.site = site
        self._clock = clock
        self._offload = offload or thread_of_its_own()
        self._volume: Volume | None = None
        self._low = False
        """The disk is full: only what is urgent is written."""
        self._sign_by = math.inf  # trio time of the next checkpoint
        self._look_again = math.inf  # trio time of the next look for room
        self._folded = FoldedRefusals()
        self._group = _Group()
        self._bodies: list[bytes] = []
        self._losses_recorded = 0
        self._failure = ""
        self._due = -math.inf  # trio time of the next write
        self._not_before = -math.inf
        self._pause = 0.0
        self._busy_since = math.inf
        self._wake = trio.Event()
        self._closing = False
        self._ended = trio.Event()

    @property
    def available(self) -> bool:
        """Whether `commit` can be expected to succeed."""
        is_open = self._volume is not None and not self._low
        return is_open and trio.current_time() - self._busy_since < STALL

    def append(self, record: Record) -> None:
        """Write ``record`` soon, at best effort."""
        if record.kind in FOLDED:
            for one in self._folded.admit(record, _now()):
                self._enqueue(one)
            self._hasten(self._next_window())
        else:
            self._enqueue(record)

    def keep(self, bodies: Sequence[bytes]) -> None:
        """Keep these: they are durable before any record that is given from now on."""
        self._bodies += bodies

    async def commit(self, record: Record) -> None:
        """Return when ``record`` is durable; raises AuditUnavailableError when it cannot be said to be."""
        group = self._group
        if self._volume is None or self._low:
            raise AuditUnavailableError(f"audit log: {self.trouble}")
        if not group.add(record, awaited=True):
            raise AuditUnavailableError("audit log: too much is waiting to be written")
        self._hasten(-math.inf)
        with trio.move_on_after(COMMIT_TIMEOUT):
            await group.settled.wait()
        if not group.durable:
            raise AuditUnavailableError(f"audit log: {self.trouble or 'the disk does not answer'}")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `close`; started once the first volume was tried. A failing disk does not end it."""
        try:
            if self.site.reserve_bytes and not await self._offload(lambda: reserve.take(self.site)):
                self._run_low("no space left on device")
            await self._write()
            task_status.started()
            while not self._closing:
                await self._until_due()
                await self._write()
            await self._write()  # what came during the last one
        finally:
            self._end()

    async def close(self) -> None:
        """Write what is left and end `run`, which must have been started."""
        for one in self._folded.flush():
            self._enqueue(one)
        self._closing = True
        self._wake.set()
        await self._ended.wait()

    def _enqueue(self, record: Record) -> None:
        if self._ended.is_set() or not self._group.add(record, awaited=False):
            self.lost += 1
        else:
            self._hasten(trio.current_time() + LINGER)

    def _hasten(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._wake.set()

    def _next_window(self) -> float:
        deadline = self._folded.next_deadline()
        return math.inf if deadline is None else deadline / SECOND

    async def _until_due(self) -> None:
        while not self._closing and trio.current_time() < (due := self._next_write()):
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()

    def _next_write(self) -> float:
        return min(max(min(self._due, self._sign_by), self._not_before), self._look_again)

    async def _write(self) -> None:
        """Write the gathered group, in a new volume if there is none."""
        for one in self._folded.due(_now()):
            self._enqueue(one)
        if trio.current_time() >= self._look_again or (self._low and self._closing):
            await self._look_for_room()
        if trio.current_time() < self._not_before and not self._closing:
            return
        group, self._group = self._take_group()
        self._due = self._next_window()
        is_idle = self._volume is not None and not group.records and not self._failure
        if is_idle and not self._is_to_sign():
            return
        lost = self.lost
        self._busy_since = trio.current_time()
        try:
            await self._put(self._volume, [*self._notes(), *group.records])
        except OSError as error:
            await self._give_up(group, error)
        else:
            self._losses_recorded = lost
            self._pause = 0.0
            self._failure = ""
            self.trouble = self.trouble if self._low else ""
            self._schedule_checkpoint()
            group.settle(durable=True)
        finally:
            self._busy_since = math.inf
            group.settled.set()  # cancelled: not durable

    async def _put(self, volume: Volume | None, records: Sequence[Record]) -> None:
        at, signatory = self._clock.wall(), self.signatory()
        must = volume is None or volume.is_full or self._closing or self._is_to_sign()
        pen = None if signatory is None else Pen(signatory, at, must)
        await self._put_bodies()
        if volume is not None and volume.is_full:
            volume.close()
            volume = self._volume = None
        if volume is None:
            opened = await self._offload(lambda: open_volume(self.site, at, records, self.head, pen))
            volume = self._volume = opened.volume
            self.broken = self.broken or opened.broken
        else:
            await self._offload(lambda: volume.append(records, pen))
        self.head = volume.head
        self.note = volume.note or self.note

    async def _put_bodies(self) -> None:
        """On a full disk they wait with the records of what they let through."""
        objects, bodies = self.objects, list(self._bodies)
        if objects is not None and bodies and not self._low:
            await self._offload(lambda: [objects.keep(one) for one in bodies])
            del self._bodies[: len(bodies)]

    def _is_to_sign(self) -> bool:
        return trio.current_time() >= self._sign_by or (self._closing and self._sign_by < math.inf)

    def _schedule_checkpoint(self) -> None:
        unsigned = self._volume.unsigned if self._volume is not None and self.signatory() is not None else 0
        if not unsigned:
            self._sign_by = math.inf
        elif self._sign_by == math.inf or trio.current_time() >= self._sign_by:
            self._sign_by = trio.current_time() + EVERY_SECONDS

    def _notes(self) -> list[Record]:
        """What the log has to say about itself first."""
        at, notes = self._clock.wall(), list[Record]()
        if self._failure and self._low:
            notes.append(finding(at, "audit_disk_full", {"cause": self._failure}))
        elif self._failure:
            notes.append(recovery(at, "writable_again", {"cause": self._failure}))
        if self.lost > self._losses_recorded:
            notes.append(recovery(at, "records_lost", {"count": self.lost - self._losses_recorded}))
        return notes

    async def _give_up(self, group: "_Group", error: OSError) -> None:
        """The volume is finished: tell who waits, keep the records, try a new one after a pause."""
        volume, self._volume = self._volume, None
        self._failure = error.strerror or str(error)
        self.trouble = f"{self.site.folder}: {self._failure}"
        gathered, self._group = self._group, _Group([*group.unawaited, *self._group.unawaited])
        for one in (group, gathered):
            one.settle(durable=False)
        if volume is not None:
            await self._offload(volume.give_up)
        if self.site.reserve_bytes and reserve.is_full(error) and not self._low:
            await self._offload(lambda: reserve.release(self.site))
            self._run_low(self._failure)
        self._due = -math.inf
        self._not_before = trio.current_time() + self._pause
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)

    def _run_low(self, cause: str) -> None:
        self._low = True
        self._failure = cause
        self.trouble = f"{self.site.folder}: {cause}"
        self._look_again = trio.current_time() + LONGEST_PAUSE

    async def _look_for_room(self) -> None:
        """Whether the reserve can be made again: then there is room for all."""
        self._look_again = trio.current_time() + LONGEST_PAUSE
        if await self._offload(lambda: reserve.take(self.site)):
            self._low = False
            self._look_again = math.inf
            self._failure = self._failure or "no space left on device"

    def _take_group(self) -> tuple["_Group", "_Group"]:
        """What is to be written now, and what has to wait."""
        if not self._low:
            return self._group, _Group()
        records = self._group.records
        urgent = [one for one in records if one.kind in reserve.URGENT]
        return _Group(urgent), _Group([one for one in records if one.kind not in reserve.URGENT])

    def _end(self) -> None:
        if self._volume is not None:
            self._volume.close()
            self._volume = None
        self.trouble = "closed"
        self.lost += len(self._group.unawaited)
        self._group.settle(durable=False)
        self._ended.set()


class _Group:
    """Records that share one write and one fdatasync, and who waits for them."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.records = list(records)
        self.unawaited = list(records)
        """Those to be kept when the write fails: of the others somebody is told."""
        self.settled = trio.Event()
        self.durable = False
        self._size = sum(map(_weight, records))

    def add(self, record: Record, *, awaited: bool) -> bool:
        """Whether there was room for it."""
        if self._size + _weight(record) > MAX_PENDING_BYTES:
            return False
        self._size += _weight(record)
        self.records.append(record)
        if not awaited:
            self.unawaited.append(record)
        return True

    def settle(self, *, durable: bool) -> None:
        self.durable = durable
        self.settled.set()


def _weight(record: Record) -> int:
    return record.size + ENVELOPE_BYTES


def _now() -> int:
    """Trio's own clock in microseconds: it never jumps, and the deadlines it is compared with are Trio's."""
    return round(trio.current_time() * SECOND)


def thread_of_its_own() -> Offload:
    """One piece of work at a time, whatever else uses threads."""
    limiter = trio.CapacityLimiter(1)

    async def offload(work: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(work, limiter=limiter)

    return offload
