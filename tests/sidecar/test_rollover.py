from dataclasses import dataclass, field, replace

import trio
import trio.testing

from pki.bundle import TrustBundle
from pki.clock import HOUR
from pki.statement import RolloverAck, parse
from pki.verify import Identity, verify
from sidecar.identity import Credential
from sidecar.rollover import PAUSE_SECONDS, Acknowledger
from tests.authority import NOW
from tests.clock import ManualClock
from tests.statements import Mint


@dataclass
class Node:
    """What an acknowledger asks of its node, and what it said."""

    mint: Mint = field(default_factory=Mint)
    clock: ManualClock = field(default_factory=ManualClock)
    said: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bundle: TrustBundle = self.mint.ca.bundle
        self.renew()

    def renew(self) -> None:
        own = self.mint.node("agents-1")
        self.credential = Credential(own.id, own.chain, own.key)
        found = verify(own.chain, self.bundle, NOW)
        assert isinstance(found, Identity)
        self.identity = found

    def words(self) -> list[RolloverAck]:
        bodies = [parse(raw).body for raw in self.said]
        return [body for body in bodies if isinstance(body, RolloverAck)]

    def acknowledger(self) -> Acknowledger:
        return Acknowledger(self, lambda: self.bundle, self.said.extend, self.clock)


def test_the_bundle_in_force_is_said_once() -> None:
    """Again when it has changed, or the certificate has: the CA waits for either."""
    node = Node()
    one = node.acknowledger()
    one.say()
    one.say()
    node.bundle = replace(node.bundle, sequence=2, digest="2" * 64)
    one.say()
    node.renew()
    one.say()
    one.say()
    assert [word.sequence for word in node.words()] == [1, 2, 2]
    assert node.words()[0].issuer == node.identity.issuer.hex()


def test_nothing_is_said_under_a_certificate_that_has_ended() -> None:
    """Nobody would take it."""
    node = Node()
    node.clock.pass_time(2 * HOUR)
    node.acknowledger().say()
    assert node.said == []


async def test_it_is_said_soon_after_a_change(autojump_clock: trio.testing.MockClock) -> None:
    """Without being told of it."""
    node = Node()
    with trio.move_on_after(3.5 * PAUSE_SECONDS):
        await node.acknowledger().run()
    assert len(node.said) == 1
