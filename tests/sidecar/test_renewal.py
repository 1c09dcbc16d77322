"""What is renewed when, in whose order, and what a failure leaves behind. The CA is a fake, time stands still."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio

from pki.bundle import TrustBundle
from pki.clock import HOUR, MINUTE, Wall
from pki.errors import RefusedError, UnreachableError
from pki.renewal import HURRY_IN_LIFE
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar import renewal
from sidecar.address import Address
from sidecar.certify import CaAccess
from sidecar.identity import Credential, NextKey
from sidecar.renewal import Renewals, Spawn
from sidecar.session.sessions import Session
from tests.authority import NOW, TinyCa, new_key, tiny_ca
from tests.clock import ManualClock


@dataclass
class World:
    """A node, one session of it, and a CA that answers or fails as told."""

    folder: Path
    ca: TinyCa = field(default_factory=tiny_ca)
    clock: ManualClock = field(default_factory=ManualClock)
    failure: Exception | None = None
    asked: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    keys: list[tuple[str, Key]] = field(default_factory=list)
    """What sessions were asked for: the serial that is renewed, and the key."""

    trusted: TrustBundle | None = None
    """Where it is no more the one that the CA began with."""

    def __post_init__(self) -> None:
        key, session_key = new_key(), new_key()
        self.credential = Credential(self.ca.node(), self.ca.issue(self.ca.node(), key), key)
        self.credential.save(self.folder)
        self.own = self.judged(self.credential.chain)
        identity = self.judged(self.ca.issue(self.ca.agent(), session_key))
        self.sessions = [Session(identity, session_key, 1000, NOW, "")]
        self.renewals = Renewals(self, self, NextKey(self.folder), self.clock)

    def judged(self, chain: tuple[bytes, ...]) -> Identity:
        found = verify(chain, self.ca.bundle, self.clock.wall())
        assert isinstance(found, Identity), found
        return found

    # What the renewals ask of their holder

    @property
    def identity(self) -> Identity:
        return self.own

    @property
    def bundle(self) -> TrustBundle:
        return self.trusted or self.ca.bundle

    def ca_access(self) -> CaAccess:
        return CaAccess(Address("ca", 7444), self.ca.bundle, self.credential, self.clock)

    def renewable(self) -> Iterable[Session]:
        return list(self.sessions)

    def take_up_node(self, credential: Credential, identity: Identity, spawn: Spawn) -> None:
        self.credential, self.own = credential, identity
        spawn(self.show, "node")

    def take_up_session(self, session: Session, identity: Identity, key: Key, spawn: Spawn) -> None:
        self.sessions = [Session(identity, key, session.uid, session.started, session.trace)]
        spawn(self.show, "session")

    async def show(self, what: str) -> None:
        self.shown.append(what)

    # The CA

    async def renew_node(self, key: Key, ca: CaAccess) -> Identity:
        return self.answer(ca.credential.id, key)

    async def renew_session(self, own: Identity, key: Key, ca: CaAccess) -> Identity:
        assert ca.credential is self.credential
        self.keys.append((own.serial, key))
        return self.answer(own.id, key)

    def answer(self, name: SpiffeId, key: Key) -> Identity:
        self.asked.append(str(name.kind))
        if self.failure is not None:
            raise self.failure
        return self.judged(self.ca.issue(name, key, at=self.clock.wall()))

    async def renew(self) -> None:
        """One round of renewals, with what it starts."""
        async with trio.open_nursery() as nursery:

            def spawn(work: Callable[..., Awaitable[None]], /, *args: object) -> None:
                nursery.start_soon(work, *args)

            await self.renewals.renew_due(spawn)

    def pass_to(self, at: int) -> None:
        self.clock.pass_time(at - self.clock.wall())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "identity")
    monkeypatch.setattr(renewal, "renew_node", world.renew_node)
    monkeypatch.setattr(renewal, "renew_session", world.renew_session)
    return world


async def test_nothing_is_asked_for_before_half_life(world: World) -> None:
    """A certificate that is fresh is left alone."""
    world.pass_to(NOW + HOUR * 2 // 5)
    await world.renew()
    assert world.asked == []


async def test_after_half_life_the_node_comes_first_and_all_is_shown(world: World) -> None:
    """A session is asked for in the node's name, so its certificate is the fresh one by then."""
    before = world.own.serial
    world.pass_to(NOW + HOUR * 3 // 5)
    await world.renew()
    assert world.asked == ["node", "agent"]
    assert sorted(world.shown) == ["node", "session"]
    assert world.own.serial != before
    assert Credential.load(world.folder).chain == world.credential.chain
    await world.renew()
    assert world.asked == ["node", "agent"]


async def test_under_an_old_key_of_the_ca_all_is_renewed_soon_and_once(world: World) -> None:
    """The first issuer of the trust bundle is the one in use; whoever is asked again at once would ask for ever."""
    successor = tiny_ca().issuer.certificate
    world.trusted = replace(world.ca.bundle, issuers=(successor, *world.ca.bundle.issuers), digest="b")
    await world.renew()
    world.pass_to(NOW + HOUR // HURRY_IN_LIFE + 1)
    await world.renew()
    assert world.asked == ["node", "agent"]
    for minutes in (1, 2):  # The CA went on with the old key: the certificates are no better than before.
        world.pass_to(NOW + minutes * MINUTE)
        await world.renew()
    assert world.asked == ["node", "agent"]


async def test_a_failure_keeps_what_is_valid_and_waits(world: World) -> None:
    """The old pair stays on disk and in use; the next try comes after a pause, and clears the trouble."""
    held = world.credential
    world.failure = UnreachableError("CA: cannot connect")
    world.pass_to(NOW + HOUR * 3 // 5)
    await world.renew()
    assert world.credential is held
    assert Credential.load(world.folder).chain == held.chain
    assert "cannot connect" in world.renewals.trouble
    await world.renew()
    assert world.asked == ["node", "agent"]
    world.failure = None
    world.clock.pass_time(HOUR // 10)
    await world.renew()
    assert world.asked == ["node", "agent", "node", "agent"]
    assert world.renewals.trouble == ""


async def test_a_session_that_has_ended_is_not_brought_back(world: World) -> None:
    """It ran out: its streams are gone, and a new run is a new session. The node itself asks on, in grace."""
    world.pass_to(world.sessions[0].identity.not_after)
    world.failure = RefusedError("no")
    await world.renew()
    assert world.asked == ["node"]


async def test_a_refusal_of_one_session_is_no_trouble_of_the_node(world: World) -> None:
    """A revoked session is refused by the CA, again and again, and that is all."""
    world.pass_to(NOW + HOUR * 3 // 5)
    await world.renew()
    world.pass_to(Wall(world.sessions[0].identity.not_after - HOUR // 10))
    world.own = world.judged(world.ca.issue(world.ca.node(), world.credential.key, at=world.clock.wall()))
    world.failure = RefusedError("revoked")
    await world.renew()
    assert world.renewals.trouble == ""


async def test_a_session_is_asked_for_with_one_key_until_it_is_answered(world: World) -> None:
    """Another key would be a clone's to the CA, which may have answered the first time."""
    world.failure = UnreachableError("CA: cannot connect")
    world.pass_to(NOW + HOUR * 3 // 5)
    await world.renew()
    world.failure = None
    world.clock.pass_time(HOUR // 10)
    await world.renew()
    (first, key), (again, same_key) = world.keys
    assert (first, key) == (again, same_key)
    assert world.sessions[0].key is key
    world.clock.pass_time(HOUR * 3 // 5)
    await world.renew()
    assert world.keys[-1][0] != first
    assert world.keys[-1][1] is not key
