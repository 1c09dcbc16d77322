import errno
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.clock import Boot, Wall
from sidecar.audit import record, writer
from sidecar.audit.proven import Signed
from sidecar.audit.record import Caller, Record, Role, Ruling, Subject
from sidecar.audit.verify import verify_folder
from sidecar.audit.volume import Site, volume_names
from sidecar.audit.writer import COMMIT_TIMEOUT, LINGER, STALL, AuditUnavailableError, AuditWriter
from sidecar.disk import RealDisk
from sidecar.objects import Objects
from sidecar.reasons import Reason
from tests.auditlog import FOLDER, NOON, Keeper, note, site, write_log
from tests.faultdisk import FaultDisk

T = TypeVar("T")

READ_ONLY = OSError(errno.EROFS, "read-only file system")


class StillClock:
    """The writer's own records need a time, no more."""

    def wall(self) -> Wall:
        return NOON

    def boot(self) -> Boot:
        return Boot(0)


class Worker:
    """Does blocking work on the loop, so that virtual time does not run past a thread; or holds it up."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self._gate = trio.Event()
        self._gate.set()

    def hold(self) -> None:
        self._gate = trio.Event()

    def let_go(self) -> None:
        self._gate.set()

    async def __call__(self, work: Callable[[], T], /) -> T:
        self.begun.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        await self._gate.wait()
        return work()


class Running:
    """A writer at work on a disk in memory."""

    def __init__(self, disk: FaultDisk, place: Site | None = None) -> None:
        self.disk = disk
        self.worker = Worker()
        self.writer = AuditWriter(place or site(disk), StillClock(), self.worker)

    @property
    def available(self) -> Any:
        """Any: or mypy would believe that it stays as it was asserted."""
        return self.writer.available

    @property
    def volume(self) -> Path:
        assert self.writer.head is not None
        return FOLDER / self.writer.head.volume


@asynccontextmanager
async def running(disk: FaultDisk | None = None, place: Site | None = None) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        one = Running(disk or FaultDisk(), place)
        await nursery.start(one.writer.run)
        yield one
        nursery.cancel_scope.cancel()


def bodies(disk: FaultDisk) -> list[dict[str, Any]]:
    """Every record of the log, in order."""
    names = volume_names(disk, FOLDER)
    return [json.loads(line) for name in names for line in disk.content(FOLDER / name).split(b"\n")[:-1]]


def whats(disk: FaultDisk) -> list[str]:
    return [body.get("what", body["kind"]) for body in bodies(disk)]


def refusal(number: int) -> Record:
    subject = Subject(stream=f"stream-{number}", role=Role.AGENT, service="vault")
    ruling = Ruling(verdict="deny", reason=Reason.NO_GRANT)
    return record.denied(NOON, subject, ruling, Caller("uid", 1000))


async def outcome(one: Running, number: int, outcomes: list[str]) -> None:
    try:
        await one.writer.commit(note(number))
    except AuditUnavailableError as error:
        outcomes.append(str(error))
    else:
        outcomes.append("durable")


async def test_a_committed_record_survives_a_power_cut() -> None:
    """`commit` returns after fdatasync, not before."""
    async with running() as one:
        await one.writer.commit(note(1))
        assert whats(one.disk.crash()) == ["volume", "note 1"]
        assert one.writer.head is not None
        assert one.writer.head.seq == 1
        assert one.available


async def test_commits_share_one_fdatasync() -> None:
    """The price of a sync is paid once for all who wait."""
    async with running() as one:
        before = one.disk.fdatasyncs
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(one.writer.commit, note(n))
        assert one.disk.fdatasyncs == before + 1
        assert len(bodies(one.disk.crash())) == 101


async def test_what_comes_during_a_sync_shares_the_next() -> None:
    """One group is on its way, one gathers."""
    async with running() as one:
        before = one.disk.fdatasyncs
        one.worker.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.writer.commit, note(0))
            await trio.testing.wait_all_tasks_blocked()
            for n in range(1, 50):
                nursery.start_soon(one.writer.commit, note(n))
            await trio.testing.wait_all_tasks_blocked()
            one.worker.let_go()
        assert one.disk.fdatasyncs == before + 2
        assert whats(one.disk.crash())[1] == "note 0"


async def test_commit_does_not_linger(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever waits is served at once, and takes along those who do not."""
    async with running() as one:
        begun = trio.current_time()
        one.writer.append(note(1))
        await one.writer.commit(note(2))
        assert trio.current_time() == begun
        assert whats(one.disk.crash()) == ["volume", "note 1", "note 2"]


async def test_an_appended_record_is_durable_within_50_ms(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody waits for it, but it does not wait for company for long."""
    async with running() as one:
        one.writer.append(note(1))
        assert whats(one.disk) == ["volume"]
        await trio.sleep(0.01)
        one.writer.append(note(2))
        await trio.sleep(LINGER)
        assert LINGER < 0.05
        assert whats(one.disk.crash()) == ["volume", "note 1", "note 2"]
        assert one.disk.fdatasyncs == 2


async def test_an_idle_log_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    """No record, no write."""
    async with running() as one:
        await trio.sleep(3600)
        assert len(one.worker.begun) == 1


def fill(one: Running) -> None:
    one.disk.room = one.disk.used + 100


def fall_sick(one: Running) -> None:
    one.disk.sick.add(one.volume)


@pytest.mark.parametrize("fail", [fill, fall_sick])
async def test_a_failed_write_is_told_and_the_next_volume_tried(
    fail: Callable[[Running], None], autojump_clock: trio.testing.MockClock
) -> None:
    """Who waited hears no; what nobody waited for is kept, and stands in the log once."""
    async with running() as one:
        await one.writer.commit(note(0))
        fail(one)
        one.writer.append(note(1))
        with pytest.raises(AuditUnavailableError):
            await one.writer.commit(note(2))
        one.disk.room = None
        await trio.sleep(1)
        assert one.available
        assert one.writer.trouble == ""
        await one.writer.commit(note(3))
        expected = ["volume", "note 0", "volume", "writable_again", "note 1", "note 3"]
        assert whats(one.disk) == whats(one.disk.crash()) == expected
        assert verify_folder(FOLDER, one.disk).first_bad is None
        assert one.writer.lost == 0


async def test_who_came_during_a_failed_write_is_told_with_it(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody waits for the next volume: it may take as long as the disk likes."""
    outcomes: list[str] = []
    begun = trio.current_time()
    async with running() as one:
        one.worker.hold()
        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(outcome, one, number, outcomes)
                await trio.testing.wait_all_tasks_blocked()
            fall_sick(one)
            one.worker.let_go()
    assert outcomes == ["audit log: /state/lib/audit: input/output error"] * 2
    assert trio.current_time() == begun


async def test_without_a_log_commit_fails_at_once_and_append_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Required segments refuse without delay; the others' records are written when the disk is back."""
    async with running() as one:
        one.disk.down = READ_ONLY
        with pytest.raises(AuditUnavailableError, match="read-only file system"):
            await one.writer.commit(note(0))
        await trio.sleep(10)
        begun = trio.current_time()
        with pytest.raises(AuditUnavailableError, match="read-only file system"):
            await one.writer.commit(note(1))
        assert trio.current_time() == begun
        assert not one.available
        one.writer.append(note(2))
        one.disk.down = None
        await trio.sleep(writer.LONGEST_PAUSE)
        assert one.available
        assert whats(one.disk) == ["volume", "volume", "writable_again", "note 2"]
        assert bodies(one.disk)[2]["cause"] == "read-only file system"


async def test_a_node_can_start_without_a_log(autojump_clock: trio.testing.MockClock) -> None:
    """Other segments go on; the log begins when it can."""
    disk = FaultDisk()
    disk.down = READ_ONLY
    async with running(disk) as one:
        assert not one.available
        assert one.writer.head is None
        disk.down = None
        await trio.sleep(1)
        assert whats(disk) == ["volume", "writable_again"]


async def test_a_dead_disk_is_tried_ever_more_seldom(autojump_clock: trio.testing.MockClock) -> None:
    """At once, then with pauses that double up to the longest."""
    disk = FaultDisk()
    disk.down = READ_ONLY
    async with running(disk) as one:
        await trio.sleep(20)
        pauses = [round(later - sooner, 3) for sooner, later in pairwise(one.worker.begun)]
        assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


async def test_losses_are_counted_and_recorded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Memory is bounded while the disk is away, and the log says how much it misses."""
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 2_000)
    async with running() as one:
        one.disk.down = READ_ONLY
        one.writer.append(note(0))
        await trio.sleep(1)
        for n in range(1, 20):
            one.writer.append(note(n))
        lost = one.writer.lost
        assert 0 < lost < 19
        one.disk.down = None
        await trio.sleep(writer.LONGEST_PAUSE)
        one.writer.append(note(20))
        await trio.sleep(1)
        kept = [f"note {n}" for n in range(20 - lost)]
        assert whats(one.disk) == ["volume", "volume", "writable_again", "records_lost", *kept, "note 20"]
        assert bodies(one.disk)[3]["count"] == lost


async def test_a_full_queue_refuses_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written cannot be waited for."""
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 1_000)
    async with running() as one:
        for n in range(3):
            one.writer.append(note(n))
        with pytest.raises(AuditUnavailableError, match="too much is waiting"):
            await one.writer.commit(note(3))


async def test_a_disk_that_hangs_is_a_disk_that_fails(autojump_clock: trio.testing.MockClock) -> None:
    """The log is unavailable before the first waiter gives up, and available when the disk comes back."""
    async with running() as one:
        one.worker.hold()
        async with trio.open_nursery() as nursery:
            outcomes: list[str] = []
            nursery.start_soon(outcome, one, 1, outcomes)
            await trio.sleep(STALL / 2)
            assert one.available
            await trio.sleep(STALL)
            assert not one.available
            await trio.sleep(COMMIT_TIMEOUT)
        assert outcomes == ["audit log: the disk does not answer"]
        one.worker.let_go()
        await one.writer.commit(note(2))
        assert one.available
        assert whats(one.disk) == ["volume", "note 1", "note 2"]


async def test_like_refusals_are_folded(autojump_clock: trio.testing.MockClock) -> None:
    """A caller who is refused a thousand times leaves ten records and one that counts the rest."""
    async with running() as one:
        for n in range(1_000):
            one.writer.append(refusal(n))
        await trio.sleep(2)
        denied = [body for body in bodies(one.disk.crash()) if body["kind"] == "denied"]
        assert [body.get("count") for body in denied] == [None] * 10 + [990]
        assert denied[-1]["uid"] == 1000


async def test_close_writes_what_is_left() -> None:
    """A stopping node loses nothing; what comes after the end is lost, and counted."""
    async with running() as one:
        one.writer.append(note(1))
        for n in range(12):
            one.writer.append(refusal(n))
        await one.writer.close()
        assert whats(one.disk.crash()) == ["volume", "note 1", *["denied"] * 11]
        assert bodies(one.disk)[-1]["count"] == 2
        one.writer.append(note(2))
        assert one.writer.lost == 1
        assert not one.available
        with pytest.raises(AuditUnavailableError, match="closed"):
            await one.writer.commit(note(3))


async def test_close_waits_for_what_came_during_the_last_write() -> None:
    """Even if a write was under way when it was asked to end."""
    async with running() as one:
        one.worker.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.writer.commit, note(1))
            await trio.testing.wait_all_tasks_blocked()
            one.writer.append(note(2))
            nursery.start_soon(one.writer.close)
            await trio.testing.wait_all_tasks_blocked()
            one.worker.let_go()
        assert whats(one.disk.crash()) == ["volume", "note 1", "note 2"]


async def test_close_ends_although_the_disk_is_gone() -> None:
    """It counts what it could not write."""
    async with running() as one:
        one.disk.down = READ_ONLY
        one.writer.append(note(1))
        await one.writer.close()
        assert one.writer.lost == 1


async def test_a_killed_writer_leaves_nobody_waiting(autojump_clock: trio.testing.MockClock) -> None:
    """A commit under way when the daemon dies is not said to be durable."""
    outcomes: list[str] = []
    begun = trio.current_time()
    async with trio.open_nursery() as waiting, running() as one:
        one.worker.hold()
        for number in range(2):
            waiting.start_soon(outcome, one, number, outcomes)
            await trio.testing.wait_all_tasks_blocked()
    assert outcomes == ["audit log: closed"] * 2
    assert trio.current_time() == begun


async def test_a_volume_that_is_full_is_closed_and_the_next_begun() -> None:
    """The log goes on over it as over a restart."""
    disk = FaultDisk()
    async with running(disk, site(disk, volume_bytes=2_000)) as one:
        for number in range(40):
            await one.writer.commit(note(number))
    sizes = [disk.size(FOLDER / name) for name in volume_names(disk, FOLDER)]
    assert len(sizes) > 3
    assert all(2_000 <= size < 2_400 for size in sizes[:-1])
    assert [what for what in whats(disk) if what != "volume"] == [f"note {n}" for n in range(40)]
    assert verify_folder(FOLDER, disk).first_bad is None


async def test_a_vanished_folder_is_noticed_and_said(autojump_clock: trio.testing.MockClock) -> None:
    """No record is durable in a file that nobody can find; the next volume names the one that is gone."""
    async with running() as one:
        await one.writer.commit(note(1))
        gone = one.volume.name
        one.disk.lose(FOLDER)
        with pytest.raises(AuditUnavailableError, match="the volume is gone"):
            await one.writer.commit(note(2))
        await trio.sleep(1)
        await one.writer.commit(note(3))
        assert whats(one.disk) == ["volume", "audit_volume_broken", "writable_again", "note 3"]
        assert bodies(one.disk)[0]["previous"] == {"volume": gone, "broken": "it is gone"}
        assert one.writer.broken == "it is gone"
        assert verify_folder(FOLDER, one.disk).first_bad is not None


RESERVE = 10_000


async def test_on_a_full_disk_what_is_refused_is_still_on_record(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The reserve makes room for it; what lets through fails at once; what waits is written when there is room."""
    disk = FaultDisk()
    async with running(disk, site(disk, reserve_bytes=RESERVE)) as one:
        assert disk.used >= RESERVE
        disk.room = disk.used + 10
        with pytest.raises(AuditUnavailableError, match="short write"):
            await one.writer.commit(note(0))
        one.writer.append(record.opened(NOON, Subject(stream="waits", role=Role.AGENT)))
        one.writer.append(refusal(1))
        await trio.sleep(1)
        assert whats(disk.crash()) == ["volume", "volume", "audit_disk_full", "denied"]
        assert not one.available
        assert "short write" in one.writer.trouble
        with pytest.raises(AuditUnavailableError, match="short write"):
            await one.writer.commit(note(2))
        disk.room = None
        await trio.sleep(2 * writer.LONGEST_PAUSE)
        assert one.available
        assert one.writer.trouble == ""
        assert whats(disk.crash())[4:] == ["writable_again", "opened"]
        assert disk.size(site(disk).reserve) == RESERVE
        assert verify_folder(FOLDER, disk).first_bad is None
        assert one.writer.lost == 0


async def test_a_disk_that_stays_full_is_looked_at_again_and_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also one that was full at the start, and without a record to write."""
    disk = FaultDisk()
    disk.room = RESERVE // 2
    async with running(disk, site(disk, reserve_bytes=RESERVE)) as one:
        assert not one.available
        await trio.sleep(60)
        assert not one.available
        assert whats(disk) == ["volume", "audit_disk_full"]
        assert len(one.worker.begun) < 20
        disk.room = None
        await trio.sleep(writer.LONGEST_PAUSE)
        assert one.available
        assert whats(disk)[2:] == ["writable_again"]


async def test_a_log_that_ends_on_a_full_disk_counts_what_it_could_not_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And one that finds room at the last moment writes it."""
    for room, lost in ((0, 1), (RESERVE, 0)):
        disk = FaultDisk()
        async with running(disk, site(disk, reserve_bytes=RESERVE)) as one:
            disk.room = disk.used
            one.writer.append(note(0))
            await trio.sleep(1)
            one.writer.append(record.opened(NOON, Subject(stream="waits", role=Role.AGENT)))
            disk.room += room
            await one.writer.close()
            assert one.writer.lost == lost


OBJECTS = FOLDER.with_name("objects")


async def test_what_records_name_by_digest_is_durable_before_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A log whose bodies cannot be written cannot be written."""
    disk = FaultDisk()
    async with running(disk) as one:
        one.writer.objects = Objects(OBJECTS, disk)
        one.writer.keep([b"first", b"second"])
        await one.writer.commit(note(1))
        assert len(disk.crash().names(OBJECTS)) == 2
        disk.room = disk.used + 3
        one.writer.keep([b"third body"])
        with pytest.raises(AuditUnavailableError, match="short write"):
            await one.writer.commit(note(2))
        assert whats(disk.crash()) == ["volume", "note 1"]
        disk.room = None
        await trio.sleep(1)
        await one.writer.commit(note(3))
        assert whats(disk.crash())[-1] == "note 3"
        assert len(disk.crash().names(OBJECTS)) == 3


async def test_on_a_full_disk_bodies_wait_with_what_they_let_through(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Refusals are on record without them, and they come when there is room."""
    disk = FaultDisk()
    async with running(disk, site(disk, reserve_bytes=RESERVE)) as one:
        one.writer.objects = Objects(OBJECTS, disk)
        disk.room = disk.used
        one.writer.keep([b"body"])
        one.writer.append(refusal(1))
        await trio.sleep(1)
        assert whats(disk.crash())[-1] == "denied"
        assert disk.crash().names(OBJECTS) == []
        disk.room = None
        await trio.sleep(2 * writer.LONGEST_PAUSE)
        assert len(disk.crash().names(OBJECTS)) == 1


KEEPER = Keeper()


def checkpoints(disk: FaultDisk) -> list[int]:
    """How many records each stands behind."""
    return [body["count"] for body in bodies(disk) if body["kind"] == "checkpoint"]


@asynccontextmanager
async def signing(disk: FaultDisk) -> AsyncIterator[Running]:
    """A writer whose log is signed."""
    async with trio.open_nursery() as nursery:
        one = Running(disk)
        one.writer.signatory = lambda: KEEPER.signatory
        await nursery.start(one.writer.run)
        yield one
        nursery.cancel_scope.cancel()


async def test_a_checkpoint_stands_behind_the_first_records_and_then_every_ten_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Ten seconds after the first record without one; an idle log is left alone."""
    disk = FaultDisk()
    async with signing(disk) as one:
        assert checkpoints(disk.crash()) == [1]
        await trio.sleep(100)
        assert len(one.worker.begun) == 1
        for number in range(3):
            await one.writer.commit(note(number))
            await trio.sleep(3)
        assert checkpoints(disk.crash()) == [1]
        await trio.sleep(2)
        assert checkpoints(disk.crash()) == [1, 5]
        assert one.writer.note is not None
        assert one.writer.note.count == 5
        await trio.sleep(100)
        await one.writer.close()
    assert checkpoints(disk) == [1, 5]


async def test_a_checkpoint_stands_behind_every_thousand_records(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However many are written at once."""
    disk = FaultDisk()
    async with signing(disk) as one:
        for number in range(2_500):
            one.writer.append(note(number))
        await trio.sleep(1)
        assert checkpoints(disk.crash()) == [1, 1_002, 2_003]


async def test_a_log_that_ends_is_signed_to_its_end() -> None:
    """Also what is written last of all."""
    disk = FaultDisk()
    async with signing(disk) as one:
        one.writer.append(note(1))
        await one.writer.close()
    assert [body["kind"] for body in bodies(disk)] == ["volume", "checkpoint", "finding", "checkpoint"]
    report = verify_folder(FOLDER, disk, [Signed(KEEPER.ca.bundle)])
    assert (report.first_bad, report.checkpoints) == (None, 2)


async def test_a_start_over_a_damaged_log_says_so() -> None:
    """For status to show."""
    disk, [path] = write_log(1)
    disk.put(path, disk.content(path) + b"garbage\n")
    async with running(disk) as one:
        assert one.available
        assert "does not end in a chain value" in one.writer.broken


async def test_a_real_disk_and_a_real_thread_do_the_same(tmp_path: Path) -> None:
    """Nothing above depends on the fakes."""
    one = AuditWriter(Site(RealDisk(), tmp_path / "lib/audit", "tools-1"), StillClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        async with trio.open_nursery() as commits:
            for n in range(20):
                commits.start_soon(one.commit, note(n))
        one.append(note(20))
        await one.close()
    report = verify_folder(tmp_path / "lib/audit")
    assert (report.records, report.first_bad, report.head) == (22, None, one.head)


def fill_up(disk: FaultDisk) -> None:
    disk.room = disk.used + 700


def free(disk: FaultDisk) -> None:
    disk.room = None


def go_down(disk: FaultDisk) -> None:
    disk.down = READ_ONLY


def come_up(disk: FaultDisk) -> None:
    disk.down = None


def sicken(disk: FaultDisk) -> None:
    disk.sick |= disk.paths


FAULTS = [fill_up, free, go_down, come_up, sicken]


class Story:
    """The lives of a daemon on one disk."""

    def __init__(self, disk: FaultDisk) -> None:
        self.disk = disk
        self.acknowledged: set[str] = set()
        self._tried = 0

    def play(self, steps: list[Any]) -> None:
        """One life for each run of steps between two kills."""
        while steps:
            life = list(takewhile(lambda step: step != "kill", steps))
            steps = steps[len(life) + 1 :]
            trio.run(self._live, life, clock=trio.testing.MockClock(autojump_threshold=0))

    async def _live(self, steps: list[Any]) -> None:
        async with running(self.disk) as one, trio.open_nursery() as nursery:
            for step in steps:
                if step == "wait":
                    await trio.sleep(6)
                elif step == "append":
                    one.writer.append(note(0))
                elif step == "commit":
                    nursery.start_soon(self._commit, one)
                    await trio.testing.wait_all_tasks_blocked()
                else:
                    step(self.disk)
            nursery.cancel_scope.cancel()

    async def _commit(self, one: Running) -> None:
        self._tried += 1
        what = f"commit {self._tried}"
        with suppress(AuditUnavailableError):
            await one.writer.commit(record.finding(NOON, what))
            self.acknowledged.add(what)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["commit", "append", "wait", "kill"]) | st.sampled_from(FAULTS), max_size=30),
    st.integers(0, 600),
)
def test_nothing_acknowledged_is_ever_missing(steps: list[Any], torn: int) -> None:
    """Whatever fails, whenever it is killed: after a power cut all that was committed stands there, once."""
    story = Story(FaultDisk())
    story.play(steps)
    after = Story(story.disk.crash(torn))
    after.play(["wait"])
    found = whats(after.disk)
    assert all(found.count(what) == 1 for what in story.acknowledged)
    if "audit_volume_broken" not in found:
        assert verify_folder(FOLDER, after.disk).first_bad is None
