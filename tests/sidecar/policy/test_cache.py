from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pki.clock import MINUTE, SECOND, Wall
from sidecar.policy.cache import DecisionCache, likely
from sidecar.policy.decide import Request, decide
from sidecar.policy.model import Policy
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LeaseInForce,
    Leases,
    LockInForce,
    Moment,
    Restrictions,
    RevocationInForce,
    Snapshot,
    Target,
)
from tests.sidecar.policy.language import Draw, whole_policy_of
from tests.sidecar.policy.world import (
    NODES,
    NOW,
    POLICY,
    SESSION,
    fresh,
    later,
    policy_of,
    request,
    roster,
    session,
    snapshot,
)

MESH = snapshot(policy_of(POLICY))


def test_an_answer_names_the_decision_that_it_repeats() -> None:
    """The record of a cached answer leads to the one of the decision."""
    cache = DecisionCache()
    first, second = (cache.decide(request(), MESH, fresh(), name) for name in ("d1", "d2"))
    assert (first.first, second.first, second.decision) == ("d1", "d1", first.decision)
    assert (cache.hits, cache.misses) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        replace(request(), serials=("ab",)),
        replace(request(), not_after=Wall(NOW + 61 * MINUTE)),
        request("tickets"),
        request(agent="clerk"),
    ],
    ids=["certificates", "life", "service", "session"],
)
def test_another_request_is_another_decision(other: Request) -> None:
    """Whatever was verified of the ends is part of the key."""
    cache = DecisionCache()
    cache.decide(request(), MESH, fresh(), "d1")
    assert cache.decide(other, MESH, fresh(), "d2").first == "d2"


def test_another_snapshot_empties_the_cache() -> None:
    """A policy, lock, revocation, lease or roster that came into force is looked at, from the next request on."""
    cache = DecisionCache()
    cache.decide(request(), MESH, fresh(), "d1")
    locked = snapshot(
        MESH.policy, Restrictions([LockInForce("l", Target("all"), Wall(NOW + MINUTE), "x", "")])
    )
    answer = cache.decide(request(), locked, fresh(), "d2")
    assert (answer.first, answer.decision.reason, len(cache)) == ("d2", Reason.LOCKED, 1)


@pytest.mark.parametrize(
    ("service", "node", "ttl"),
    [("wiki", "tools-1", 5 * SECOND), ("tickets", "tools-1", SECOND), ("vault", "tools-2", 0)],
)
def test_the_segments_ttl_is_the_longest_that_an_answer_lives(service: str, node: str, ttl: int) -> None:
    """0s is never, and what is decided in high-risk is decided each time."""
    cache, asked = DecisionCache(), request(service, node)
    cache.decide(asked, MESH, fresh(), "d1")
    assert cache.decide(asked, MESH, later(fresh(), max(0, ttl - 1)), "d2").first == ("d1" if ttl else "d2")
    assert cache.decide(asked, MESH, later(fresh(), ttl), "d3").first == "d3"


def test_a_clock_that_goes_back_or_a_lost_word_makes_an_answer_void() -> None:
    """Whatever was over may not be over any more: it is looked at."""
    for moment in (
        replace(fresh(), wall=Wall(NOW - 1), floor=Wall(NOW - 1)),
        replace(fresh(), floor=Wall(NOW - 1)),
        replace(fresh(), as_of=Wall(NOW - 1)),
        replace(fresh(), as_of=None),
    ):
        cache = DecisionCache()
        cache.decide(request(), MESH, fresh(), "d1")
        assert cache.decide(request(), MESH, moment, "d2").first == "d2"


def test_what_is_stale_is_not_kept() -> None:
    """The next word from the CA ends it; until then each refusal is its own."""
    cache, moment = DecisionCache(), replace(fresh(), as_of=Wall(NOW - 10 * MINUTE))
    assert cache.decide(request(), MESH, moment, "d1").decision.reason is Reason.STALE
    assert len(cache) == 0
    assert cache.decide(request(), MESH, fresh(), "d2").decision.allowed


def test_what_no_segment_is_known_of_is_not_kept() -> None:
    """There is no ttl to keep it by, and a flood of invented names does not fill the cache."""
    cache = DecisionCache()
    cache.decide(request("z"), MESH, fresh(), "d1")
    cache.decide(request(), snapshot(None), fresh(), "d2")
    assert len(cache) == 0


def test_the_oldest_decision_makes_room() -> None:
    """An agent that asks for ever new paths costs no memory."""
    cache = DecisionCache(limit=2)
    for serial in ("a", "b", "c"):
        cache.decide(replace(request(), serials=(serial,)), MESH, fresh(), serial)
    assert len(cache) == 2
    answers = [
        cache.decide(replace(request(), serials=(serial,)), MESH, fresh(), "new")
        for serial in ("c", "b", "a")
    ]
    assert [answer.first for answer in answers] == ["c", "b", "new"]


def test_what_is_made_ready_is_named_by_the_first_to_ask() -> None:
    """No record names a decision that nobody asked for."""
    cache = DecisionCache()
    asked = list(likely([replace(request(), service="", tool_node="")], MESH))
    assert [(one.service, one.tool_node) for one in asked] == [("wiki", "tools-1")]
    assert (cache.prewarm(asked, MESH, fresh()), cache.prewarm(asked, MESH, fresh())) == (1, 0)
    assert (cache.hits, cache.misses, cache.prewarmed_hits) == (0, 0, 0)
    answers = [cache.decide(request(), MESH, fresh(), name) for name in ("d1", "d2")]
    assert [answer.first for answer in answers] == ["d1", "d1"]
    assert (cache.hits, cache.misses, cache.prewarmed_hits) == (2, 0, 2)


def test_what_may_not_be_kept_is_not_made_ready() -> None:
    """Prewarming a high-risk service has no effect, and says how many decisions it made."""
    cache = DecisionCache()
    assert cache.prewarm([request("vault", "tools-2")], MESH, fresh()) == 1
    assert len(cache) == 0


def test_likely_are_the_bindings_of_a_session_on_its_node() -> None:
    """On every node that the service stands beside; nothing without a policy, nor elsewhere."""
    clerk = request(agent="clerk")
    assert [(one.service, one.tool_node) for one in likely([clerk], MESH)] == [
        ("tickets", "tools-1"),
        ("tickets", "tools-2"),
    ]
    assert list(likely([clerk], snapshot(None))) == []
    away = replace(clerk, session=session("clerk", "tools-1"))
    assert list(likely([away], MESH)) == []


# Cache and fresh decision, side by side

TEXT = POLICY.replace(
    'nodes = ["tools-1"]\ntarget = "127.0.0.1:8001"', 'nodes = ["tools-1"]\ntarget = "h:1"\nprotocol = "http"'
)
SPECIAL = '[[services.wiki.operations]]\nmethods = ["*"]\npath = "/x/**"\nsegment = "action"\n'
ESCALATION = """
[[escalations]]
id = "up"
agents = ["clerk"]
from = "action"
to = "retrieval"
services = ["wiki"]
max-ttl = "15m"
"""
POLICIES: tuple[Policy, ...] = tuple(
    whole_policy_of(text)
    for text in (
        TEXT + ESCALATION,
        TEXT.replace("[services.tickets]", SPECIAL + "[services.tickets]") + ESCALATION,
        TEXT.replace('id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-12T13:46:43Z'),
        TEXT.replace('id = "no-vault"', 'id = "no-vault"\nexpires = 1970-01-12T13:46:42Z'),
        TEXT.replace('id = "all-actions"', 'id = "all-actions"\nhttp = [{ methods = ["GET"], path = "/x" }]'),
        '[segments.retrieval]\nmode = "observe"\nstale-after = "2s"\n' + TEXT,
    )
)
ASKED = [
    request(service, node, agent)
    for service, node in (("wiki", "tools-1"), ("tickets", "tools-2"), ("vault", "tools-2"))
    for agent in ("researcher", "clerk")
]
TARGETS = (Target("all"), Target("agent", "clerk"), Target("segment", "action"), Target("service", "wiki"))
seconds = st.integers(0, 8).map(lambda n: n * SECOND // 2)


class Cached(RuleBasedStateMachine):
    """A node's life: all that can change, in any order; after each change every request is asked for."""

    @initialize(policy=st.sampled_from(POLICIES))
    def start(self, policy: Policy) -> None:
        self.cache = DecisionCache(limit=5)
        self.policy = policy
        self.restrictions = Restrictions()
        self.leases = Leases()
        self.nodes: tuple[str, ...] = NODES
        self.moment = fresh()
        self.count = 0

    @rule(policy=st.sampled_from(POLICIES))
    def policy_changes(self, policy: Policy) -> None:
        self.policy = policy

    @rule(by=seconds)
    def time_goes_on(self, by: int) -> None:
        self.moment = later(self.moment, by)

    @rule(wall=seconds, floor=seconds)
    def clocks_are_set(self, wall: int, floor: int) -> None:
        self.moment = replace(self.moment, wall=Wall(NOW + wall), floor=Wall(NOW + floor))

    @rule()
    def heartbeat_comes(self) -> None:
        self.moment = Moment(self.moment.wall, self.moment.now, self.moment.now)

    @rule()
    def word_is_lost(self) -> None:
        self.moment = replace(self.moment, as_of=None)

    @rule(of=st.sampled_from(TARGETS), until=seconds)
    def lock_comes(self, of: Target, until: int) -> None:
        lock = LockInForce(f"l{len(self.restrictions.locks)}", of, Wall(NOW + until), "x", "")
        self.restrictions = Restrictions([*self.restrictions.locks, lock], self.restrictions.revocations)

    @rule(of=st.sampled_from(TARGETS))
    def revocation_comes(self, of: Target) -> None:
        self.restrictions = Restrictions(self.restrictions.locks, [RevocationInForce("r", of, "x")])

    @rule()
    def all_is_lifted(self) -> None:
        self.restrictions = Restrictions()

    @rule(until=seconds, services=st.sampled_from([frozenset({"wiki"}), frozenset({"vault"})]))
    def lease_comes(self, until: int, services: frozenset[str]) -> None:
        self.leases = Leases([LeaseInForce("lease", SESSION, "up", services, None, Wall(NOW + until))])

    @rule(nodes=st.sampled_from([NODES, NODES[1:], NODES[:3]]))
    def roster_changes(self, nodes: tuple[str, ...]) -> None:
        self.nodes = nodes

    @rule()
    def likely_decisions_are_made_ready(self) -> None:
        self.cache.prewarm(likely(ASKED, self.snapshot), self.snapshot, self.moment)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.of(
            policy=self.policy,
            bundle_digest="",
            roster=roster(*self.nodes),
            restrictions=self.restrictions,
            leases=self.leases,
        )

    @invariant()
    def every_answer_equals_a_fresh_decision(self) -> None:
        read = self.snapshot
        for asked in ASKED:
            self.count += 1
            answer = self.cache.decide(asked, read, self.moment, str(self.count))
            assert answer.decision == decide(asked, read, self.moment)
            assert len(self.cache) <= 5


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_policy_and_the_clocks_an_answer_equals_a_fresh_decision(seed: int) -> None:
    """The whole language: requests of every kind come again while the clocks are moved and set."""
    draw = Draw(seed)
    world = draw.world()
    read, cache = world.snapshot(), DecisionCache(limit=3)
    assert read.policy is not None
    asks = [draw.ask(world) for _ in range(4)]
    for _ in range(40):
        ask, at = draw.one(*asks), draw.ask(world)
        ask = replace(ask, wall=at.wall, floor=at.floor, as_of=at.as_of)
        asked = ask.request(read.policy)
        assert cache.decide(asked, read, ask.moment, "").decision == decide(asked, read, ask.moment), ask


TestCached = Cached.TestCase
TestCached.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
