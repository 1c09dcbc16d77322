from typing import Any

import pytest

from pki.clock import MINUTE, Wall
from sidecar.escalation.book import files, stand
from sidecar.escalation.granting import Granted, Owed, Withheld, owed
from sidecar.policy.model import Hours, When
from tests.asking import TTL, approves, asks, leases, refuses, session
from tests.authority import NOW
from tests.sidecar.escalation.world import World, held, rule

NEVER = Hours(frozenset(), 0, 1, "UTC")


def what_is_owed(
    world: World, *approvers: str, given: int = 0, at: int = NOW + MINUTE, **asked: Any
) -> Owed | None:
    request = asks(session(world.mint), **asked)
    operators = {"alice": world.alice, "bob": world.bob}
    said = [held(approves(operators[name], request), operators[name]) for name in approvers]
    [file] = files([held(request), *said]).values()
    return owed(file, stand(file, world.ground, Wall(at)), world.rule, given, Wall(at))


@pytest.mark.parametrize(("needed", "approvers"), [(0, ()), (1, ("alice",)), (2, ("alice", "bob"))])
def test_enough_operators_make_a_lease(needed: int, approvers: tuple[str, ...]) -> None:
    """None at all, where conditions alone decide."""
    world = World(rule(needed, When(None, 5, require_reason=False)))
    assert what_is_owed(world, *approvers) == Granted(Wall(NOW + MINUTE + TTL), approvers)
    if needed:
        assert what_is_owed(world, *approvers[1:]) is None


def test_the_cas_word_on_a_derived_lease_ends_when_that_does() -> None:
    """Nodes have it in force since the approval."""
    assert what_is_owed(World(), "alice") == Granted(Wall(NOW + 1 + TTL), ("alice",))


@pytest.mark.parametrize(
    ("when", "given", "asked", "why"),
    [
        (When(NEVER, None, require_reason=False), 0, {}, "not within its hours"),
        (When(None, 2, require_reason=False), 2, {}, "granted 2 times today"),
        (When(None, None, require_reason=False), 0, {"uses": 1, "tool_node": "tools-1"}, "number of uses"),
    ],
    ids=["hours", "a-day", "uses"],
)
def test_what_may_not_be_granted_is_refused_with_the_reason(
    when: When, given: int, asked: dict[str, Any], why: str
) -> None:
    """By the CA, once the operators have agreed."""
    answer = what_is_owed(World(rule(when=when)), "alice", given=given, **asked)
    assert isinstance(answer, Withheld)
    assert why in answer.why


def test_nothing_is_said_twice_nor_of_what_is_over() -> None:
    """One lease for a request; none for one that is refused, late, or of a rule that is gone."""
    world = World()
    request = asks(session(world.mint))
    agreed = held(approves(world.alice, request), world.alice)
    for more in (held(leases(world.mint, request, "alice")), held(refuses(world.bob, request), world.bob)):
        [file] = files([held(request), agreed, more]).values()
        assert owed(file, stand(file, world.ground, Wall(NOW + 2)), world.rule, 0, Wall(NOW + 2)) is None
    assert (
        what_is_owed(World(rule(when=When(None, 5, require_reason=False))), "alice", at=NOW + 60 * MINUTE)
        is None
    )
    [file] = files([held(request), agreed]).values()
    assert owed(file, stand(file, world.ground, Wall(NOW + 2)), None, 0, Wall(NOW + 2)) is None
