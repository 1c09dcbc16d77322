"""What no order, repeat, crash or deletion may break in a member's store: a machine that tries to, and a model beside it.

The model is sets: what came, what became durable, what time it certainly is. Whatever the store says must follow from
these alone.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pki.clock import HOUR, MINUTE, Wall
from pki.statement import Edition, Lift, Lock, Revocation, Statement, parse
from sidecar.gossip.store import Store
from tests.authority import NOW
from tests.statements import Mint, ca_word, lock, revocation

MINT = Mint()
STOPS = [
    *(MINT.says("lock", lock("agent", f"a{n}"), ttl=(n + 1) * 10 * MINUTE) for n in range(4)),
    *(MINT.says("revocation", revocation("agent", f"r{n}"), ttl=(n + 2) * 10 * MINUTE) for n in range(3)),
]
LIFTS = [
    MINT.says("unlock", Lift(ids=[STOPS[0].id]), ttl=10 * MINUTE),
    MINT.says("unlock", Lift(ids=[STOPS[1].id, STOPS[2].id]), ttl=30 * MINUTE),
    MINT.says("unlock", Lift(ids=[STOPS[4].id]), ttl=HOUR),  # Of a revocation: worth nothing.
    MINT.says("unrevoke", Lift(ids=[STOPS[4].id]), ttl=20 * MINUTE),
    MINT.says("unrevoke", Lift(ids=[STOPS[5].id], before=NOW), ttl=30 * MINUTE),
    MINT.says("unrevoke", Lift(ids=[STOPS[5].id], before=NOW - 9), ttl=30 * MINUTE),
]
POLICIES = [MINT.policy(n, str(n) * 64) for n in (3, 1, 2)]
ADOPTIONS = [MINT.adopts(STOPS[0], 10 * MINUTE)]
POOL = [*STOPS, *LIFTS, *POLICIES, *ADOPTIONS]
KIND_OF_LIFT = {"lock": "unlock", "revocation": "unrevoke"}


class StoreMachine(RuleBasedStateMachine):
    """A store that is fed, crashed and tidied in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.came: set[str] = set()
        self.durable: set[str] = set()
        self.floor = int(NOW)
        self.newest = 0

    @rule(some=st.lists(st.integers(0, len(POOL) - 1), max_size=8))
    def hear(self, some: list[int]) -> None:
        """Anything, again too."""
        for which in some:
            self._hear(POOL[which])

    def _hear(self, statement: Statement) -> None:
        """What is over by the floor is refused before it comes to the store, as intake does."""
        if statement.payload.expires <= self.floor:
            return
        original = parse(statement.body.original) if statement in ADOPTIONS else None  # type: ignore[union-attr]  # an adoption's
        self.store.merge(ca_word(statement), original, Wall(NOW))
        self.came |= {statement.id, *([original.id] if original else [])}

    @rule()
    def sync(self) -> None:
        """The disk has it all."""
        self.store.settle(self.store.ids())
        self.durable |= self.came
        self.newest = max(
            [
                self.newest,
                *(
                    one.body.sequence
                    for one in POLICIES
                    if one.id in self.durable and isinstance(one.body, Edition)
                ),
            ]
        )

    @rule()
    def crash(self) -> None:
        """A new process has what was durable, and nothing else: restart equals continuation."""
        kept = [
            entry for name in self.store.ids() if (entry := self.store.entry(name)) and name in self.durable
        ]
        self.store = Store()
        for entry in kept:
            self.store.restore(entry)
        self.store.settle(self.store.ids())
        self.came = set(self.durable)

    @rule(minutes=st.integers(1, 15))
    def pass_time(self, minutes: int) -> None:
        """The floor goes on, and what ended long ago is deleted."""
        self.floor += minutes * MINUTE
        self.store.expire(Wall(self.floor))

    def lifted(self, stop: Statement) -> list[int]:
        """The cutoffs of what durably lifts it."""
        kind = KIND_OF_LIFT[stop.kind]
        return [
            one.body.before
            for one in LIFTS
            if one.kind == kind
            and one.id in self.durable
            and isinstance(one.body, Lift)
            and stop.id in one.body.ids
        ]

    @invariant()
    def stops_are_what_came_less_what_was_lifted(self) -> None:
        """Nothing lost, nothing undone, and no lift ends before what it lifts: it would come back."""
        expected = {
            one.id
            for one in STOPS
            if one.id in self.came and one.payload.expires > self.floor and not self.lifted(one)
        }
        assert {entry.statement.id for entry in self.store.in_force(Wall(self.floor))} == expected

    @invariant()
    def cutoffs_are_the_least_of_what_was_said(self) -> None:
        """And go when what they were cut down from would have gone."""
        expected = {
            one.id: min(before)
            for one in STOPS
            if one.id in self.came
            and isinstance(one.body, Revocation)
            and one.payload.expires > self.floor
            and (before := self.lifted(one))
            and min(before)
        }
        assert {entry.statement.id: at for entry, at in self.store.cutoffs(Wall(self.floor))} == expected

    @precondition(lambda self: self.floor < NOW + HOUR)
    @invariant()
    def sequences_never_go_back(self) -> None:
        """An older policy, heard later, changes nothing."""
        entry = self.store.newest("policy")
        body = entry.statement.body if entry else None
        assert (body.sequence if isinstance(body, Edition) else 0) == self.newest

    @invariant()
    def what_is_over_is_gone_and_what_is_not_is_there(self) -> None:
        """Deletion takes what has ended, and only that."""
        for one in STOPS:
            assert isinstance(one.body, Lock | Revocation)
            if one.id in self.came and one.payload.expires > self.floor:
                assert one.id in self.store


def test_a_store_says_what_follows_from_what_came_what_is_durable_and_the_time() -> None:
    """And nothing else, whatever happens to it in whatever order."""
    tries = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(StoreMachine, settings=tries)
