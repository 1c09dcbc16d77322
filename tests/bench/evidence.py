"""``python -m tests.bench.evidence [--quick]``: what the audit log costs to write and to judge.

Records are those of decisions on HTTP requests by a policy of 1,000 rules. Writing is on the disk that holds the
temporary folder: with several waiting, a sync is shared. Judging is one process, on what was written.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import trio
import trio.lowlevel

from pki.clock import SystemClock
from sidecar.audit import record
from sidecar.audit.closed import compress
from sidecar.audit.proven import Signed
from sidecar.audit.record import Record, Requested, Role, Subject
from sidecar.audit.redecide import Redecided
from sidecar.audit.verify import Observer, verify_folder
from sidecar.audit.volume import Site, volume_names
from sidecar.audit.writer import AuditWriter
from sidecar.disk import RealDisk
from sidecar.objects import Objects
from sidecar.policy.decide import decide
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.proxy.carry import Sight
from sidecar.proxy.ruling import ruling, spelled
from sidecar.snapshot import Moment, Restrictions, Snapshot
from tests.auditlog import Keeper
from tests.bench.policies import NOW, ROSTER, request_of, text_of
from tests.bench.report import markdown

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN = "<!-- made by `make bench`, evidence: begin -->"
END = "<!-- made by `make bench`, evidence: end -->"
RULES = 1_000
RECORDS = 100_000
LANES = (1, 8, 64)
MILLION = 1_000_000


def records(count: int) -> tuple[list[Record], list[bytes]]:
    """So many decisions on record, and the bodies that they name."""
    text = text_of(RULES)
    policy = load_policy(text, "policy.toml")
    snapshot = Snapshot.of(policy=policy, bundle_digest="", roster=ROSTER, restrictions=Restrictions())
    moment, made = Moment(NOW, NOW, NOW), []
    sight = Sight(snapshot, moment)
    for number in range(count):
        asked = request_of(number % RULES, RULES)
        one = ruling(asked, decide(asked, snapshot, moment), sight)
        subject = Subject(
            stream="b" * 26, role=Role.TOOL, session=asked.session.session, agent="a0", service="s0"
        )
        what = Requested(request="d" * 26, operation=spelled(asked.operation), operation_class="read")
        made.append(record.request(moment.wall, subject, one, what))
    return made, [text, *snapshot.bodies()]


async def durable(folder: Path, made: list[Record], lanes: int, seconds: float) -> float:
    """Records a second that are durable, with so many callers that each wait for theirs."""
    keeper = Keeper()
    one = AuditWriter(Site(RealDisk(), folder, "tools-1"), SystemClock())
    one.signatory = lambda: keeper.signatory
    done = 0

    async def wait_for_each() -> None:
        nonlocal done
        while True:
            await one.commit(made[done % len(made)])
            done += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as callers:
                for _ in range(lanes):
                    callers.start_soon(wait_for_each)
        await one.close()
    return done / seconds


async def write(folder: Path, keeper: Keeper, made: list[Record], bodies: list[bytes]) -> float:
    """Seconds for all of them, when one in a thousand is waited for."""
    one = AuditWriter(Site(RealDisk(), folder / "audit", "tools-1"), SystemClock())
    one.signatory, one.objects = lambda: keeper.signatory, Objects(folder / "objects")
    one.keep(bodies)
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run)
        for number, each in enumerate(made):
            if number % 1_000:
                one.append(each)
            else:
                await one.commit(each)  # the queue is bounded, and this loop is quicker than any disk
        await one.close()
    assert one.lost == 0
    return time.perf_counter() - started


def judge(folder: Path, *observers: Observer) -> float:
    """Seconds that judging the log takes."""
    started = time.perf_counter()
    assert verify_folder(folder / "audit", None, observers).first_bad is None
    return time.perf_counter() - started


def read(text: bytes, digest: str) -> Policy:
    return load_policy(text, digest, len(text))


def tables(count: int, seconds: float) -> str:
    """Two tables in Markdown."""
    made, bodies = records(count)
    keeper = Keeper()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = [trio.run(durable, folder / f"lanes-{lanes}", made, lanes, seconds) for lanes in LANES]
        first = markdown(
            ["callers that wait for their record to be durable:", *map(str, LANES)],
            [["records a second", *(f"{rate:,.0f}" for rate in rates)]],
        )
        times = {"written, one in a thousand waited for": trio.run(write, folder, keeper, made, bodies)}
        size = sum(path.stat().st_size for path in (folder / "audit").iterdir())
        times["verified: chain and signatures"] = judge(folder, Signed(keeper.ca.bundle))
        decided = Redecided(Objects(folder / "objects").read, read)
        times["verified, and every decision made again"] = judge(folder, decided)
        assert decided.is_right
        assert decided.decisions == count
        site = Site(RealDisk(), folder / "audit", "tools-1")
        started = time.perf_counter()
        for volume in volume_names(site.disk, site.folder):
            compress(site, volume)
        times["compressed"] = time.perf_counter() - started
        packed = sum(path.stat().st_size for path in (folder / "audit").iterdir())
        times["verified when compressed"] = judge(folder)
    rows = [[what, f"{took * MILLION / count:.1f}"] for what, took in times.items()]
    rows.append(["bytes a record; when compressed", f"{size / count:.0f}; {packed / count:.0f}"])
    return f"{first}\n\n{markdown(['a million records of decisions:', 's'], rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.evidence", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few records: to see that all of it works")
    options = parser.parse_args()
    made = tables(2_000, 0.3) if options.quick else tables(RECORDS, 5.0)
    sys.stdout.write(f"{made}\n")
    if not options.quick:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
