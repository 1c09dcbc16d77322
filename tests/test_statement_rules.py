"""The table "Statement rules" of docs/wire.md, each row played against a real member with its journal."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pki.clock import HOUR, MINUTE, SECOND, Wall
from pki.statement import Applied, Cutoff, Demand, Finding, Lift, Receipt, Statement, Target
from sidecar.defaults import OPERATOR_LIVE_STATEMENTS, RETENTION, SKEW
from sidecar.snapshot import Facts
from tests.authority import NOW
from tests.sidecar.gossip.member_world import FakeOutlet, Home
from tests.statements import Mint, Signatory, lock, revocation
from tests.wire_tables import table

Play = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A mesh with an operator, alice, and a node, in its roster; :meth:`home` is a new member of it."""

    def __init__(self, folder: Path) -> None:
        self.mint = Mint()
        self.alice, self.node = self.mint.operator("alice"), self.mint.node("tools-1")
        self.roster = (self.mint.enlists(self.alice), self.mint.enrols("tools-1"))
        self._folder = folder
        self._homes = 0

    async def home(self, *statements: Statement) -> Home:
        self._homes += 1
        folder = self._folder / str(self._homes)
        folder.mkdir()
        home = Home(folder, self.mint, FakeOutlet(f"home-{self._homes}"))
        assert await home.take(*self.roster, *statements) == []
        return home

    def receipt(self, statement: Statement, at: int) -> Statement:
        applied = [Applied(id=statement.id, since=at, cut=0)]
        return self.node.says("receipt", Receipt(applied=applied), issued=at, ttl=3 * HOUR)

    def brief(self, name: str = "bob") -> Signatory:
        """An operator whose certificate ends in a minute."""
        return self.mint.member(self.mint.ca.operator(name), NOW, MINUTE)


async def adopted(stage: Stage) -> None:
    said = stage.alice.says("lock", lock("agent", "a"))
    adoption = stage.mint.adopts(said, 2 * HOUR)
    home = await stage.home(adoption)
    assert home.locks() == [said.id]
    assert adoption.id in home.member.store
    await home.take(stage.mint.says("revocation", revocation("operator", "alice")))
    assert home.locks() == [said.id]


async def late(stage: Stage, *with_it: Statement, said: Statement, who: Signatory) -> tuple[Home, list[str]]:
    """A joiner, after the signer's certificate has ended."""
    home = await stage.home(stage.mint.enlists(who, ("responder", "admin")))
    home.clock.pass_time(2 * MINUTE)
    return home, await home.take(said, *with_it)


async def witnessed(stage: Stage) -> None:
    bob = stage.brief()
    said = bob.says("lock", lock("agent", "a"), ttl=3 * HOUR)
    home, refused = await late(stage, stage.receipt(said, NOW + SECOND), said=said, who=bob)
    assert (refused, home.locks()) == ([], [said.id])
    revoked = await stage.home(stage.mint.says("revocation", revocation("operator", "bob")))
    await revoked.take(stage.mint.enlists(bob))
    revoked.clock.pass_time(2 * MINUTE)
    [why] = await revoked.take(stage.receipt(said, NOW + SECOND), said)
    assert "revoked" in why


async def not_witnessed(stage: Stage) -> None:
    bob = stage.brief()
    said = bob.says("lock", lock("agent", "a"), ttl=3 * HOUR)
    for receipts in ((), (stage.receipt(said, NOW + 90 * SECOND),)):
        home, [why] = await late(stage, *receipts, said=said, who=bob)
        assert "expired" in why
        assert home.locks() == []
    demand = bob.says("demand", Demand(action="unlock", ids=[said.id]), ttl=3 * HOUR)
    _, [why] = await late(stage, stage.receipt(demand, NOW + SECOND), said=demand, who=bob)
    assert "demand" in why


async def unlock_by_id(stage: Stage) -> None:
    one, other = (stage.alice.says("lock", lock("agent", "a"), ttl=life) for life in (HOUR, 2 * HOUR))
    lift = stage.mint.lifts("unlock", one.id)
    for order in ((lift, one, other), (one, other, lift)):
        assert (await stage.home(*order)).locks() == [other.id]


async def roles(stage: Stage) -> None:
    bob = stage.mint.operator("bob")
    said = bob.says("lock", lock("agent", "a"))
    home = await stage.home(stage.mint.enlists(bob, ("approver",)))
    [why] = await home.take(said)
    assert "may not sign" in why
    assert await home.take(stage.mint.enlists(bob, ("responder",), sequence=2), said) == []
    assert home.locks() == [said.id]
    [why] = await home.take(stage.mint.operator("bob").says("lock", lock("agent", "b")))
    assert "may not sign" in why


def hits(home: Home, issued: int) -> bool:
    facts = Facts(agent="a", issued=Wall(issued))
    return home.member.snapshot.restrictions.revocation_of(facts) is not None


async def cutoff(stage: Stage) -> None:
    target = Target(kind="agent", value="a")
    home = await stage.home(stage.mint.says("cutoff", Cutoff(target=target, before=NOW)))
    assert hits(home, NOW - 1)
    assert not hits(home, NOW)


async def unrevoke(stage: Stage) -> None:
    said = stage.alice.says("revocation", revocation("agent", "a"))
    lifts = [stage.mint.says("unrevoke", Lift(ids=[said.id], before=at)) for at in (NOW, NOW - 5)]
    for order in ((said, *lifts), (*reversed(lifts), said)):
        home = await stage.home(*order)
        assert (hits(home, NOW - 6), hits(home, NOW - 5)) == (True, False)
        await home.take(stage.mint.lifts("unrevoke", said.id))
        assert not hits(home, 0)


async def restrictions_stay(stage: Stage) -> None:
    said = stage.alice.says("lock", lock("agent", "a"))
    home = await stage.home(said)
    await home.take(stage.mint.says("revocation", revocation("operator", "alice")))
    [why] = await home.take(stage.alice.says("lock", lock("agent", "b")))
    assert "revoked" in why
    assert home.locks() == [said.id]


async def same_sequence(stage: Stage) -> None:
    twins = [stage.mint.policy(7, digit * 64) for digit in "12"]
    for order in (twins, twins[::-1]):
        home = await stage.home(*order)
        store = home.member.store
        assert all(one.id in store for one in twins)
        assert store.conflicts(twins[0]) == [twins[1].id]
        newest = store.newest("policy")
        assert newest is not None
        assert newest.statement.id == twins[1].id
        await home.take(stage.mint.beats("0" * 64, policy_sequence=7, policy_digest="1" * 64))
        named = store.newest("policy")
        assert named is not None
        assert named.statement.id == twins[0].id
        await home.take(stage.mint.policy(8, "3" * 64))
        assert not any(one.id in store for one in twins)


async def floor(stage: Stage) -> None:
    said = stage.mint.says("lock", lock(), ttl=HOUR)
    home = await stage.home(said)
    await home.take(stage.mint.beats("0" * 64))
    home.clock.wall_time += 2 * HOUR
    await home.member.tick(b"")
    assert home.locks() == [said.id]


async def deletion(stage: Stage) -> None:
    said = stage.mint.says("lock", lock(), ttl=MINUTE)
    home = await stage.home(said)
    await home.take(stage.mint.beats("0" * 64))
    home.clock.pass_time(MINUTE + RETENTION - 1)
    await home.member.tick(b"")
    assert (home.locks(), said.id in home.member.store) == ([], True)
    home.clock.pass_time(1)
    await home.member.tick(b"")
    assert said.id not in home.member.store
    [why] = await home.take(said)
    assert "expired" in why


async def future(stage: Stage) -> None:
    home = await stage.home()
    late = stage.mint.says("lock", lock(), issued=NOW + SKEW + 1)
    [why] = await home.take(late)
    assert "future" in why
    assert late.id not in home.member.store
    assert await home.take(stage.mint.says("lock", lock(), issued=NOW + SKEW)) == []


async def quota(stage: Stage) -> None:
    said = [stage.alice.says("lock", lock("agent", f"a{n}")) for n in range(OPERATOR_LIVE_STATEMENTS)]
    home = await stage.home(*said)
    [why] = await home.take(stage.alice.says("lock", lock("agent", "more")))
    assert "the most there may be" in why
    assert len(home.locks()) == OPERATOR_LIVE_STATEMENTS
    assert await home.take(stage.mint.says("lock", lock("agent", "more"))) == []


async def unknown_kind(stage: Stage) -> None:
    unknown = stage.mint.says("weather", lock())
    home = await stage.home()
    await home.member.link_changed("peer", True)
    home.outlet.sent.clear()
    assert await home.take(unknown) == []
    assert unknown.id in home.member.store
    assert home.outlet.sent
    assert home.locks() == []
    for who in (stage.alice, stage.node):
        [why] = await home.take(who.says("weather", lock()))
        assert "only ca" in why


async def finding(stage: Stage) -> None:
    target = Target(kind="agent", value="a")
    said = stage.node.says(
        "finding", Finding(rule="r", what="refusals", target=target, enforced=True, count=3)
    )
    other = await stage.home(said)
    assert (other.locks(), said.id in other.member.store) == ([], True)
    own = await stage.home()
    own.member.node = "tools-1"
    await own.take(said)
    assert own.locks() == [said.id]


PLAYS: dict[str, Play] = {
    "adopted": adopted,
    "witnessed": witnessed,
    "not-witnessed": not_witnessed,
    "unlock-by-id": unlock_by_id,
    "roles": roles,
    "cutoff": cutoff,
    "unrevoke": unrevoke,
    "restrictions-stay": restrictions_stay,
    "same-sequence": same_sequence,
    "floor": floor,
    "deletion": deletion,
    "future": future,
    "quota": quota,
    "unknown-kind": unknown_kind,
    "finding": finding,
}


def test_every_row_of_the_page_is_played() -> None:
    """And every play has its row."""
    assert [row[0] for row in table("Statement rules")] == list(PLAYS)


@pytest.mark.parametrize("rule", PLAYS)
async def test_a_rule_is_what_the_page_says(rule: str, tmp_path: Path) -> None:
    """By a real member, over its real journal."""
    await PLAYS[rule](Stage(tmp_path))
