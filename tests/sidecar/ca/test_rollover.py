"""The daemon's own rollover: from half life on it goes on by what the root has signed, and never past anybody."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from pki.authority.keystore import REGISTER_FILE, Birth, create, open_online, read_standing
from pki.authority.register import Register
from pki.authority.rollover import Phase, Step
from pki.authority.signer import StatementSigner
from pki.authority.succession import RootAccess, Successor
from pki.clock import DAY
from pki.spiffe import SpiffeId
from pki.statement import Node
from sidecar.audit.record import Kind, Record
from sidecar.ca.daemon import compose
from sidecar.ca.office import Office
from sidecar.ca.rollover import PAUSE_SECONDS, RolloverDesk
from sidecar.gossip.journal import Journal
from sidecar.lifecycle import make_folders
from sidecar.paths import Paths
from tests.authority import NOW
from tests.clock import ManualClock
from tests.sidecar.ca.world import BOOT_ID, CONFIG

NUMBERS = count(1)
CA = SpiffeId.for_ca("example.org", "ca-1")


def entropy(size: int) -> bytes:
    return (1 << 150 | next(NUMBERS) << 8).to_bytes(20)[-size:]


class Desk:
    """A CA on disk whose root's key is gone, and its desk for rollovers."""

    def __init__(self, root: Path) -> None:
        paths = Paths.below(root)
        make_folders(paths)
        Journal(paths.statements, create=True).close()
        self.folder = paths.authority_dir
        create(self.folder, CA, None, NOW, entropy)
        Successor(self.folder, Birth(CA, NOW, entropy), RootAccess(None)).stock()
        (self.folder / "root.key").unlink()
        self.clock, self.written = ManualClock(), list[Record]()
        self.signer = StatementSigner(open_online(self.folder), Register.open(self.folder / REGISTER_FILE))
        self.office: Office = compose(paths, CONFIG, self.signer, self.clock)
        self.office.record = self.written.append
        self.rollover = RolloverDesk(self.office, self.signer, self.folder, entropy)

    @property
    def phase(self) -> Phase:
        return read_standing(self.folder).phase

    @property
    def steps(self) -> list[object]:
        """Those on record."""
        return [one.fields["what"] for one in self.written if one.kind is Kind.ROLLOVER]

    def after(self, days: int) -> "Desk":
        self.clock.pass_time(NOW + days * DAY - self.clock.wall())
        return self


async def seen(condition: Callable[[], bool]) -> None:
    """Let minutes go by until it holds; the test's own time limit ends it otherwise."""
    for _ in count():
        if condition():
            return
        await trio.sleep(PAUSE_SECONDS)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    await made.office.member.restore(BOOT_ID)
    return made


async def test_from_half_life_on_the_keys_get_successors_with_no_root(desk: Desk) -> None:
    """Each step is in force and on record; then nothing is due until half life comes again."""
    before = desk.signer.authority.issuer.certificate
    assert await desk.after(44).rollover.go_on() is None
    desk.after(46)
    for step in (Step.PREPARE, Step.ACTIVATE, Step.RETIRE):
        assert await desk.rollover.go_on() is step
        assert desk.office.member.bundle == desk.signer.authority.bundle
    assert desk.signer.authority.issuer.certificate != before
    assert await desk.rollover.go_on() is None
    assert desk.steps == ["prepare", "activate", "retire"]


async def test_it_waits_for_a_node_that_does_not_know_the_new_keys(desk: Desk) -> None:
    """Nobody is left behind by the daemon: that is an admin's to say."""
    entry = Node(sequence=0, name="sleeper", addresses=[], version="1", features=[], labels=[])
    await desk.office.publish(desk.signer.member(entry, desk.clock.wall()))
    desk.after(46)
    assert await desk.rollover.go_on() is Step.PREPARE
    assert await desk.rollover.go_on() is None
    assert desk.phase is Phase.PREPARED


async def test_it_goes_on_by_itself_and_says_what_fails(desk: Desk, autojump_clock: MockClock) -> None:
    """A look a minute; a damaged folder is said, and looked at again."""
    (desk.folder / "standing.json").rename(desk.folder / "aside")
    (desk.folder / "standing.json").write_text("{")
    (desk.folder / "standing.json").chmod(0o600)
    desk.after(46)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.rollover.run)
            await seen(lambda: bool(logs))
            (desk.folder / "aside").rename(desk.folder / "standing.json")
            await seen(lambda: desk.steps[-1:] == ["retire"])
            nursery.cancel_scope.cancel()
    assert "damaged" in logs[0]["why"]
