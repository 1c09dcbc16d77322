from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing

from pki.bundle import TrustBundle
from pki.errors import RemoteError, UnreachableError
from pki.statement import Statement
from sidecar.address import Address
from sidecar.catch_up import PAUSE_SECONDS, CatchUp
from sidecar.gossip.member import Member
from tests.statements import Mint

MINT = Mint()
MISSED = [MINT.ca.bundle_statement, MINT.ca.bundle_statement]


@dataclass
class FakeMember:
    """Takes what it is given, until it says no."""

    bundle: TrustBundle = field(default_factory=lambda: MINT.ca.bundle)
    taken: list[bytes] = field(default_factory=list)
    says: list[str] = field(default_factory=list)

    async def take(self, raws: list[bytes], source: str | None) -> list[str]:
        assert source is None
        self.taken += raws
        return self.says


def catching_up(member: FakeMember, answer: list[Statement] | Exception, fresh: bool = False) -> CatchUp:
    async def fetch(address: str, bundle: TrustBundle) -> list[Statement]:
        assert (address, bundle) == ("ca:7444", member.bundle)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return CatchUp(cast(Member, member), lambda: Address("ca", 7444), lambda: fresh, fetch)


async def test_what_was_missed_is_taken_in_its_order() -> None:
    """Each is proven by the one before it."""
    member = FakeMember()
    assert await catching_up(member, MISSED).ask() == 2
    assert member.taken == [one.raw for one in MISSED]
    assert await catching_up(FakeMember(), []).ask() == 0


async def test_one_that_is_refused_ends_it() -> None:
    """What comes after it would be refused, too."""
    member = FakeMember(says=["not signed by a root that is trusted"])
    assert await catching_up(member, MISSED).ask() == 0
    assert len(member.taken) == 1


@pytest.mark.parametrize("error", [UnreachableError("gone"), RemoteError("a stranger"), trio.TooSlowError()])
async def test_a_ca_that_does_not_answer_changes_nothing(error: Exception) -> None:
    """Nor does a stranger in its place."""
    member = FakeMember()
    assert await catching_up(member, error).ask() == 0
    assert member.taken == []


@pytest.mark.parametrize(("fresh", "asked"), [(True, 0), (False, 6)])
async def test_only_a_node_that_is_not_fresh_asks(
    fresh: bool, asked: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Once in a while: all others have what there is by gossip."""
    member = FakeMember()
    with trio.move_on_after(3.5 * PAUSE_SECONDS):
        await catching_up(member, MISSED, fresh).run()
    assert len(member.taken) == asked
