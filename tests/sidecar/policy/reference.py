"""Random worlds, and what the rules of docs say of them, written down without an index or a compiled policy."""

from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

from pki.clock import SECOND, Wall
from pki.spiffe import SpiffeId
from sidecar.policy.decide import Request
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LockInForce,
    Moment,
    NodeMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
)
from tests.sidecar.policy.world import SESSION, policy_of, session

NODES = ("n1", "n2")
AGENTS = ("a", "b")
SERVICES = ("s", "t")
SEGMENTS = ("retrieval", "high-risk")
STALE_AFTER = {"retrieval": 5, "high-risk": 2}


@dataclass(frozen=True)
class World:
    """Everything a decision depends on, uncompiled. Times in seconds."""

    placed: dict[str, set[str]]
    """Nodes of each agent and service."""
    segments: dict[str, str]
    grants: list[dict[str, Any]]
    denies: list[dict[str, Any]]
    locks: list[tuple[Target, int]]
    revoked: list[Target]
    members: set[str]
    asked: Request
    wall: int
    floor: int
    as_of: int | None

    @property
    def now(self) -> int:
        return max(self.wall, self.floor)

    @property
    def snapshot(self) -> Snapshot:
        restrictions = Restrictions(
            [
                LockInForce(f"l{n}", t, Wall(until * SECOND), "x", "")
                for n, (t, until) in enumerate(self.locks)
            ],
            [RevocationInForce(f"r{n}", target, "x") for n, target in enumerate(self.revoked)],
        )
        members = {name: NodeMember(name, (), "", (), ()) for name in self.members}
        return Snapshot(policy_of(self.text), "", Roster(members, {}), restrictions, "")

    @property
    def moment(self) -> Moment:
        as_of = None if self.as_of is None else Wall(self.as_of * SECOND)
        return Moment(Wall(self.wall * SECOND), Wall(self.floor * SECOND), as_of)

    @property
    def text(self) -> str:
        lines = [f'[segments.{name}]\nstale-after = "{age}s"' for name, age in STALE_AFTER.items()]
        lines += [f"[agents.{name}]\nuid = 1\nnodes = {sorted(self.placed[name])}" for name in AGENTS]
        lines += [
            f'[services.{name}]\nsegment = "{self.segments[name]}"\ntarget = "h:1"'
            f"\nnodes = {sorted(self.placed[name])}"
            for name in SERVICES
        ]
        for key, rules in (("grants", self.grants), ("denies", self.denies)):
            for number, rule in enumerate(rules):
                lines.append(f'[[{key}]]\nid = "{key}-{number}"')
                lines += [f"{kind} = {sorted(rule[kind])}" for kind in ("agents", "services", "segments")]
                if rule["expires"] is not None:
                    lines.append(f"expires = 1970-01-01T00:00:{rule['expires']:02}Z")
        return "\n".join(lines)


T = TypeVar("T")


def mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Without this nearly every world would be refused for its first fault, and rules would hardly be tried."""
    return st.integers(0, 9).flatmap(lambda drawn: other if drawn == 9 else usual)


def subset(*names: str) -> st.SearchStrategy[set[str]]:
    return st.sets(st.sampled_from(names))


seconds = st.integers(0, 6)
rules = st.lists(
    st.fixed_dictionaries(
        {
            "agents": mostly(st.just(set(AGENTS)), subset(*AGENTS)),
            "services": subset(*SERVICES),
            "segments": subset(*SEGMENTS),
            "expires": mostly(st.none(), seconds),
        }
    ),
    max_size=3,
)
targets = st.sampled_from(
    [
        Target("all"),
        Target("serial", "ab"),
        Target("session", SESSION),
        *(Target("node", name) for name in NODES),
        *(Target("agent", name) for name in AGENTS),
        *(Target("service", name) for name in SERVICES),
        *(Target("segment", name) for name in SEGMENTS),
    ]
)
sessions = mostly(
    st.builds(session, st.sampled_from(AGENTS), st.sampled_from(NODES)),
    st.sampled_from(
        [
            session("z", "n1"),
            SpiffeId.for_node("example.org", "a"),
            SpiffeId.for_operator("example.org", "a"),
        ]
    ),
)
requests = st.builds(
    Request,
    session=sessions,
    service=mostly(st.sampled_from(SERVICES), st.just("z")),
    tool_node=st.sampled_from(NODES),
    serials=st.sampled_from([(), ("ab",), ("cd",)]),
    not_after=mostly(st.just(9), seconds).map(lambda at: Wall(at * SECOND)),
)
nodes = mostly(st.just(set(NODES)), subset(*NODES))
worlds = st.builds(
    World,
    placed=st.fixed_dictionaries(dict.fromkeys(AGENTS + SERVICES, nodes)),
    segments=st.fixed_dictionaries({name: st.sampled_from(SEGMENTS) for name in SERVICES}),
    grants=rules,
    denies=st.just([]) | rules,
    locks=mostly(st.just([]), st.lists(st.tuples(targets, seconds), max_size=3)),
    revoked=mostly(st.just([]), st.lists(targets, max_size=1)),
    members=nodes,
    asked=requests,
    wall=seconds,
    floor=seconds,
    as_of=mostly(seconds, st.none()),
)


def reference(world: World, *, live: bool) -> Reason | None:
    """Why a stream is refused, in the plainest words there are; None allows."""
    return _restricted(world) or _misplaced(world) or _ruled(world, live=live)


def _names(world: World) -> dict[str, list[str]]:
    asked = world.asked
    return {
        "all": [""],
        "agent": [asked.session.name if asked.session.session else ""],
        "session": [asked.session.session],
        "node": [asked.session.node, asked.tool_node],
        "service": [asked.service],
        "segment": [world.segments.get(asked.service, "")],
        "serial": list(asked.serials),
    }


def _restricted(world: World) -> Reason | None:
    names = _names(world)
    if any(target.value in names[target.kind] and world.floor < until for target, until in world.locks):
        return Reason.LOCKED
    if any(target.value in names[target.kind] for target in world.revoked):
        return Reason.REVOKED
    return Reason.EXPIRED if world.now * SECOND >= world.asked.not_after else None


def _misplaced(world: World) -> Reason | None:
    session, service, tool_node = world.asked.session, world.asked.service, world.asked.tool_node
    places = [
        bool(session.session),
        {session.node, tool_node} <= world.members,
        session.name not in AGENTS or session.node in world.placed[session.name],
        service not in SERVICES or tool_node in world.placed[service],
    ]
    return None if all(places) else Reason.MISBOUND


def _ruled(world: World, *, live: bool) -> Reason | None:
    agent, service = world.asked.session.name, world.asked.service
    if agent not in AGENTS or service not in SERVICES:
        return Reason.NO_GRANT
    segment = world.segments[service]
    limit: float = STALE_AFTER[segment]
    if live:
        limit = 2 * limit if segment == "high-risk" else float("inf")
    age = float("inf") if world.as_of is None else world.now - world.as_of
    if limit != float("inf") and age >= limit:
        return Reason.STALE

    def matching(rules: list[dict[str, Any]], at: int) -> bool:
        return any(
            agent in rule["agents"]
            and (service in rule["services"] or segment in rule["segments"])
            and (rule["expires"] is None or at < rule["expires"])
            for rule in rules
        )

    if matching(world.denies, world.floor):
        return Reason.DENIED
    return None if matching(world.grants, world.now) else Reason.NO_GRANT
