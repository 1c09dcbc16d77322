"""The audit log on a disk that loses power at a thousand places, and on one that fills up while it is written."""

import errno
import json
import os
import random  # noqa: TID251 - seeded: a crash that failed can be played again
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from pki.clock import SECOND, SystemClock, Wall
from sidecar.audit import record
from sidecar.audit.checkpoint import Pen
from sidecar.audit.closed import compress
from sidecar.audit.lines import extent, forward, is_packed
from sidecar.audit.proven import Signed
from sidecar.audit.record import Role, Ruling, Subject
from sidecar.audit.verify import verify_folder
from sidecar.audit.volume import Site, open_volume, volume_names
from sidecar.audit.writer import AuditUnavailableError, AuditWriter
from sidecar.disk import AppendFile, RealDisk
from sidecar.objects import Objects
from sidecar.reasons import Reason
from tests.auditlog import FOLDER, NOON, Keeper, note
from tests.faultdisk import FaultDisk
from tests.mesh import CEILING_SECONDS, is_root

CRASHES = int(os.environ.get("LOCKGATE_CRASH_POINTS", "1000"))
OBJECTS = FOLDER.with_name("objects")
KEEPER = Keeper()


class PowerCutError(OSError):
    """The machine is off."""


class MortalDisk(FaultDisk):
    """Loses power at the operation numbered ``life`` that would change it; ``left`` is what the next boot finds."""

    def __init__(self, life: int, torn: int) -> None:
        super().__init__()
        self.life = life
        self.torn = torn
        self.left: FaultDisk | None = None

    def boot(self, life: int, torn: int) -> "MortalDisk":
        """The machine is on again, with what was left."""
        found = MortalDisk(life, torn)
        left = self.left or self.crash(self.torn)
        found.folders = left.folders
        for path in left.paths:
            found.put(path, left.content(path))
        return found

    def spend(self) -> None:
        if self.left is not None:
            raise PowerCutError(errno.EIO, "no power")
        self.life -= 1
        if self.life == 0:
            self.left = self.crash(self.torn)
            raise PowerCutError(errno.EIO, "no power")

    def create(self, path: Path) -> AppendFile:
        self.spend()
        return _Mortal(super().create(path), self)

    def append(self, path: Path) -> AppendFile:
        return _Mortal(super().append(path), self)

    def rename(self, old: Path, new: Path) -> None:
        self.spend()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self.spend()
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self.spend()
        super().sync_folder(folder)


class _Mortal:
    """A file on it: power may go before a write, after it, before or after a sync."""

    def __init__(self, file: AppendFile, disk: MortalDisk) -> None:
        self._file = file
        self._disk = disk

    def write(self, data: bytes) -> int:
        self._disk.spend()
        taken = self._file.write(data)
        self._disk.spend()
        return taken

    def fdatasync(self) -> None:
        self._disk.spend()
        self._file.fdatasync()
        self._disk.spend()

    def truncate(self, size: int) -> None:
        self._disk.spend()
        self._file.truncate(size)

    def stands_at(self, path: Path) -> bool:
        return self._file.stands_at(path)

    def close(self) -> None:
        self._file.close()


class Run:
    """One boot: a log is continued, written, rolled and compressed until the power goes. ``acked``: durable notes."""

    def __init__(self, disk: MortalDisk, dice: random.Random, acked: list[int]) -> None:
        self.disk = disk
        self.dice = dice
        self.acked = acked

    def __call__(self) -> None:
        site = Site(self.disk, FOLDER, "tools-1", volume_bytes=1_500, reserve_bytes=0)
        with suppress(PowerCutError):
            objects = Objects(OBJECTS, self.disk)
            volume = None
            while True:
                at = Wall(NOON + len(self.acked) * SECOND)
                first = self.acked[-1] + 1 if self.acked else 0
                numbers = range(first, first + self.dice.randrange(1, 5))
                digests = [objects.keep(b"body %d" % number) for number in numbers]
                records = [note(n, digest) for n, digest in zip(numbers, digests, strict=True)]
                pen = Pen(KEEPER.signatory, at, must=volume is None or self.dice.random() < 0.3)
                if volume is None or volume.is_full:
                    volume = open_volume(site, at, records, pen=pen).volume
                else:
                    volume.append(records, pen)
                self.acked += numbers
                closed = volume_names(self.disk, FOLDER)[:-1]
                if closed and self.dice.random() < 0.3:
                    name = self.dice.choice(closed)
                    for stale in [
                        p for p in self.disk.paths if p.name.endswith(".new") and p.parent == FOLDER
                    ]:
                        self.disk.remove(stale)
                    if not is_packed(self.disk, FOLDER / name):
                        compress(site, name)


def bodies(disk: FaultDisk) -> Iterator[dict[str, object]]:
    for name in volume_names(disk, FOLDER):
        for line in forward(disk, FOLDER / name, 0, extent(disk, FOLDER / name).complete):
            yield json.loads(line)


def test_nothing_acknowledged_is_lost_at_a_thousand_crash_points() -> None:
    """Torn writes, lost pages, names that were never synced; the next start is cut short, too, and the one after it."""
    packed = torn = durable = 0
    for seed in range(CRASHES):
        dice = random.Random(seed)  # noqa: S311 - the same
        acked: list[int] = []
        disk = MortalDisk(dice.randrange(1, 120), dice.randrange(300))
        for _ in range(3):
            Run(disk, dice, acked)()
            disk = disk.boot(dice.randrange(1, 60), dice.randrange(300))
        disk.life = 10**9
        open_volume(
            Site(disk, FOLDER, "tools-1", reserve_bytes=0),
            NOON,
            [],
            pen=Pen(KEEPER.signatory, NOON, must=True),
        )
        packed += any(path.suffix == ".zst" for path in disk.paths)
        torn += bool(disk.names(FOLDER.with_name("audit-torn")))
        durable += len(acked)
        report = verify_folder(FOLDER, disk, [Signed(KEEPER.ca.bundle)])
        assert report.first_bad is None, (seed, report.first_bad)
        notes = [body for body in bodies(disk) if str(body.get("what", "")).startswith("note ")]
        written = [int(str(body["what"]).removeprefix("note ")) for body in notes]
        assert set(acked) <= set(written), seed
        assert all(
            sha256(disk.content(OBJECTS / str(body["text"]))).hexdigest() == body["text"] for body in notes
        )


# -- A full disk


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this kernel mounts no tmpfs here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(number: int) -> record.Record:
    subject = Subject(stream="s" * 26, role=Role.TOOL, agent=f"agent-{number}", service="vault")
    return record.denied(NOON, subject, Ruling(verdict="deny", reason=Reason.NO_GRANT))


@pytest.mark.skipif(not is_root(), reason="only root can mount")
async def test_a_disk_that_fills_up_under_load_records_refusals_and_comes_back(tmp_path: Path) -> None:
    """1 MiB: commits fail and say why, refusals stand in the reserve, and with room again all of it verifies."""
    with tmpfs(tmp_path / "small", "1m") as small:
        site = Site(RealDisk(), small / "lib" / "audit", "tools-1", reserve_bytes=64 * 1024)
        one = AuditWriter(site, SystemClock())
        one.signatory = lambda: KEEPER.signatory
        acked: list[int] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(one.run)

            async def load(lane: int) -> None:
                with suppress(AuditUnavailableError):
                    for number in range(lane, 10**6, 10):
                        await one.commit(note(number, "x" * 500))
                        acked.append(number)

            async with trio.open_nursery() as lanes:
                for lane in range(10):
                    lanes.start_soon(load, lane)
            assert not one.available
            assert "space" in one.trouble or "short write" in one.trouble
            for number in range(20):
                one.append(refused(number))
            with trio.fail_after(CEILING_SECONDS):
                while len(await trio.to_thread.run_sync(said, site, "denied")) < 20:
                    await trio.lowlevel.checkpoint()
            await trio.run_process(["mount", "-o", "remount,size=4m", str(small)])
            with trio.fail_after(CEILING_SECONDS):
                while not await trio.to_thread.run_sync(said, site, "recovery"):
                    await trio.lowlevel.checkpoint()
            await one.commit(note(10**7))
            await one.close()
        report = verify_folder(site.folder, None, [Signed(KEEPER.ca.bundle)])
        assert report.first_bad is None
        assert len(acked) > 100
        written = {str(body["what"]) for body in said(site, "finding")}
        assert {f"note {number}" for number in (*acked, 10**7)} <= written
        assert "audit_disk_full" in written


def said(site: Site, kind: str) -> list[dict[str, object]]:
    found = []
    for name in volume_names(site.disk, site.folder):
        path = site.folder / name
        for line in forward(site.disk, path, 0, extent(site.disk, path).complete):
            body = json.loads(line)
            if body["kind"] == kind:
                found.append(body)
    return found
