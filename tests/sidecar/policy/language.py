"""Random policies and requests of the whole language, uncompiled. Times in seconds.

The same seed draws the same, so a failing test that names its seed can be run again.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random  # noqa: TID251 - reproducible by its seed, and a hundred times as fast as hypothesis
from typing import Any

from pki.clock import SECOND, Wall
from sidecar.policy.asked import operation_of
from sidecar.policy.decide import Request
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import HttpCall, McpCall
from sidecar.snapshot import (
    LeaseInForce,
    Leases,
    LockInForce,
    Moment,
    NodeMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
)
from tests.sidecar.policy.world import SESSION, session

AGENTS = ("a", "b")
SERVICES = ("s", "t", "u")
NODES = ("n1", "n2")
LABELS = ("rack", "gpu")
SEGMENTS = {
    "retrieval": {"class": "read", "stale": 5, "cut": False, "observe": False},
    "high-risk": {"class": "mutate", "stale": 2, "cut": True, "observe": False},
    "trial": {"class": "mutate", "stale": 3, "cut": False, "observe": True},
}
METHODS = ("GET", "POST", "CONNECT")
PATHS = ("/", "/api", "/api/", "/api/x", "/api/x/y", "/admin/x", "/api/export/all")
PATH_PATTERNS = (
    "/",
    "/**",
    "/api",
    "/api/**",
    "/api/*",
    "/*/x",
    "/api/*/y",
    "/*/*",
    "/admin/**",
    "/api/export/**",
)
TOOLS = ("get_page", "get_", "delete_page", "page", "get_page_now")
NAME_PATTERNS = ("*", "get_*", "delete_*", "*page", "get_*_now", "get_page", "*_*", "page")
PLAIN_URIS = ("docs://a", "docs://a/b", "docs://b/c/d")
ODD_URIS = ("docs://a/../b", "docs://%61", "docs://a%2Fb", "DOCS://a", "docs://a b")
URI_PATTERNS = ("docs://**", "docs://*", "docs://a/*", "docs://a", "docs://b/**", "docs://**/d")
QUERY = {
    "limit": ({"max": 100}, {"min": 5, "max": 10}, {"equals": "10"}, {"present": True}, {"absent": True}),
    "owner": ({"in": ["me", "us"]}, {"prefix": "m"}, {"absent": True}),
}
QUERY_VALUES = ("10", "7", "500", "me", "ms", "1e9", "010", "-3", "5.0", "", "nan")
ARGUMENTS = {
    "$.amount": ({"min": 0, "max": 10}, {"equals": 1}, {"equals": True}, {"equals": "1"}, {"absent": True}),
    "$.filter.owner": ({"equals": "me"}, {"prefix": "m"}, {"in": ["me", "us", 1]}),
    "$.items[0]": ({"min": 2}, {"present": True}),
    "$.items[*].id": ({"equals": "me"}, {"max": 5}, {"present": True}, {"absent": True}),
}
SCALARS = (1, "1", True, 1.0, 11, -1, "me", "ms", None, float("nan"), float("inf"), 5)


@dataclass(frozen=True)
class Service:
    protocol: str
    segment: str
    nodes: list[str]
    labels: list[str]
    operations: list[dict[str, Any]]


@dataclass(frozen=True)
class World:
    """A policy as it is written, and all else that is in force."""

    services: dict[str, Service]
    agents: dict[str, list[str]]
    grants: list[dict[str, Any]]
    denies: list[dict[str, Any]]
    escalations: list[dict[str, Any]]
    members: dict[str, list[str]]
    """The labels of each node of the roster."""
    locks: list[tuple[Target, int]]
    revoked: list[Target]
    leases: list[dict[str, Any]]

    @property
    def text(self) -> str:
        lines = [
            f'[segments.{name}]\nclass = "{of["class"]}"\nstale-after = "{of["stale"]}s"'
            f'\non-stale = "{"cut" if of["cut"] else "refuse"}"\nmode = "{"observe" if of["observe"] else "enforce"}"'
            for name, of in SEGMENTS.items()
        ]
        lines += [
            f"[agents.{name}]\nuid = 1\nnodes = {json.dumps(nodes)}" for name, nodes in self.agents.items()
        ]
        for name, of in self.services.items():
            place = f"labels = {json.dumps(of.labels)}" if of.labels else f"nodes = {json.dumps(of.nodes)}"
            lines.append(f'[services.{name}]\nsegment = "{of.segment}"\ntarget = "h:1"\n{place}')
            lines.append(f'protocol = "{of.protocol}"')
            lines += [f"[[services.{name}.operations]]\n{_fields(row)}" for row in of.operations]
        for key in ("grants", "denies", "escalations"):
            lines += [f"[[{key}]]\n{_fields(row)}" for row in getattr(self, key)]
        return "\n".join(lines)

    def snapshot(self) -> Snapshot:
        locks = [
            LockInForce(f"l{n}", target, Wall(until * SECOND), "x", "")
            for n, (target, until) in enumerate(self.locks)
        ]
        revoked = [RevocationInForce(f"r{n}", target, "x") for n, target in enumerate(self.revoked)]
        leases = [
            LeaseInForce(
                id=f"lease-{n}",
                session=row["session"],
                rule=row["rule"],
                services=frozenset(row["services"]),
                operations=row["operations"],
                until=Wall(row["until"] * SECOND),
            )
            for n, row in enumerate(self.leases)
        ]
        return Snapshot.of(
            policy=whole_policy_of(self.text),
            bundle_digest="",
            roster=Roster(
                {name: NodeMember(name, (), "", (), tuple(labels)) for name, labels in self.members.items()},
                {},
            ),
            restrictions=Restrictions(locks, revoked),
            leases=Leases(leases),
        )


def whole_policy_of(text: str) -> Policy:
    """A policy that may use all of the language."""
    return load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)


@dataclass(frozen=True)
class Ask:
    """A request as it was made, and when."""

    agent: str
    node: str
    service: str
    tool_node: str
    not_after: int
    wall: int
    floor: int
    as_of: int | None
    call: HttpCall | McpCall | None = None
    left: dict[str, Any] | None = None
    """What a child session was left."""

    @property
    def now(self) -> int:
        return max(self.wall, self.floor)

    @property
    def moment(self) -> Moment:
        as_of = None if self.as_of is None else Wall(self.as_of * SECOND)
        return Moment(Wall(self.wall * SECOND), Wall(self.floor * SECOND), as_of)

    def request(self, policy: Policy) -> Request:
        service = policy.services.get(self.service)
        narrowing = self.left and Narrowing(
            frozenset(self.left["services"]),
            self.left["operations"],
            Wall(self.left["until"] * SECOND),
            ("child",),
        )
        return Request(
            session=session(self.agent, self.node),
            service=self.service,
            tool_node=self.tool_node,
            serials=("ab",),
            not_after=Wall(self.not_after * SECOND),
            narrowing=narrowing or None,
            operation=operation_of(self.call, service, policy) if self.call and service else None,
        )


def _fields(row: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {_toml(value, key)}" for key, value in row.items() if value is not None)


def _toml(value: Any, key: str = "") -> str:
    if key == "expires":
        return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value)


# Drawing


class Draw:
    """Draws worlds and requests; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - no secret

    def one(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def some(self, *choices: Any, least: int = 0) -> list[Any]:
        """A few of them, most often one or two."""
        count = max(least, self.one(0, 1, 1, 1, 2, 2, len(choices)))
        return self._random.sample(choices, min(count, len(choices)))

    def seldom(self, usual: Any, draw: Any) -> Any:
        """Without this nearly every request would be refused for its first fault, and rules would hardly be tried."""
        return draw() if self._random.random() < 0.1 else usual

    def seconds(self) -> int:
        return self._random.randint(0, 6)

    def world(self) -> World:
        services = {name: self._service() for name in SERVICES}
        escalations = [self._escalation(n) for n in range(self.one(0, 0, 1))]
        return World(
            services=services,
            agents={name: self.seldom(list(NODES), lambda: self.some(*NODES)) for name in AGENTS},
            grants=[self._rule(f"grant-{n}", services) for n in range(self.one(1, 2, 3, 4))],
            denies=[self._rule(f"deny-{n}", services) for n in range(self.one(0, 0, 1, 2))],
            escalations=escalations,
            members={
                name: self.some(*LABELS) for name in self.seldom(list(NODES), lambda: self.some(*NODES))
            },
            locks=self.seldom([], lambda: [(self._target(), self.seconds()) for _ in range(2)]),
            revoked=self.seldom([], lambda: [self._target()]),
            leases=[self._lease() for _ in escalations],
        )

    def _service(self) -> Service:
        protocol = self.one("tcp", "http", "http", "mcp", "mcp")
        labels = self.seldom([], lambda: self.some(*LABELS))
        nodes = [] if labels else self.seldom(list(NODES), lambda: self.some(*NODES))
        count = 0 if protocol == "tcp" else self.one(0, 0, 1, 2)
        return Service(
            protocol, self.one(*SEGMENTS), nodes, labels, [self._operation(protocol) for _ in range(count)]
        )

    def _operation(self, protocol: str) -> dict[str, Any]:
        segment, of_class = self.one(None, *SEGMENTS), self.one(None, None, "read", "mutate")
        said = {"segment": segment, "class": of_class or (None if segment else "read")}
        if protocol == "mcp":
            return {"tools": self.some(*NAME_PATTERNS, least=1)} | said
        return {"methods": self.some("*", *METHODS, least=1), "path": self.one(*PATH_PATTERNS)} | said

    def _rule(self, name: str, services: dict[str, Service]) -> dict[str, Any]:
        spoken = self.one("tcp", "http", "mcp")
        speaking = [one for one, of in services.items() if spoken in ("tcp", of.protocol)]
        row: dict[str, Any] = {
            "id": name,
            "agents": self.seldom(list(AGENTS), lambda: self.some(*AGENTS)),
            "services": self.some(*speaking) if speaking else [],
            "segments": self.some(*SEGMENTS),
            "expires": self.seldom(None, self.seconds),
        }
        if spoken == "http":
            row["http"] = [self._http() for _ in range(self.one(1, 1, 2))]
        if spoken == "mcp":
            row["mcp"] = [self._mcp() for _ in range(self.one(1, 1, 2))]
        return row

    def _http(self) -> dict[str, Any]:
        return {
            "methods": self.some("*", *METHODS, least=1),
            "path": self.one(*PATH_PATTERNS),
            "query": self._conditions(QUERY),
        }

    def _mcp(self) -> dict[str, Any]:
        kind = self.one("tools", "tools", "resources", "prompts")
        if kind == "resources":
            return {kind: self.some(*URI_PATTERNS, least=1)}
        return {kind: self.some(*NAME_PATTERNS, least=1), "arguments": self._conditions(ARGUMENTS)}

    def _conditions(self, known: dict[str, tuple[dict[str, Any], ...]]) -> dict[str, Any]:
        keys = self.one([], [], self.some(*known))
        return {key: self.one(*known[key]) for key in keys}

    def _escalation(self, number: int) -> dict[str, Any]:
        start, end = self._random.sample(list(SEGMENTS), 2)
        return {
            "id": f"escalation-{number}",
            "agents": self.some(*AGENTS),
            "from": start,
            "to": end,
            "services": self.some(*SERVICES),
            "max-ttl": "15m",
        }

    def _lease(self) -> dict[str, Any]:
        return {
            "session": self.one(SESSION, SESSION, "other"),
            "rule": self.one("escalation-0", "escalation-0", "gone"),
            "services": self.some(*SERVICES, least=1),
            "operations": self._operations(),
            "until": self.seconds(),
        }

    def _operations(self) -> tuple[str, ...] | None:
        known = (
            "GET /api/**",
            "* /admin/x",
            "tools/call get_*",
            "tools/call page",
            "resources/read docs://a**",
        )
        found: tuple[str, ...] | None = self.one(None, None, tuple(self.some(*known)))
        return found

    def _target(self) -> Target:
        target: Target = self.one(
            Target("all"),
            Target("serial", "ab"),
            Target("serial", "cd"),
            Target("session", self.one(SESSION, "child", "other")),
            Target("node", self.one(*NODES)),
            Target("agent", self.one(*AGENTS)),
            Target("service", self.one(*SERVICES)),
            Target("segment", self.one(*SEGMENTS)),
        )
        return target

    def ask(self, world: World) -> Ask:
        service = self.seldom(self.one(*SERVICES), lambda: "z")
        wall, floor = self.seconds(), self.seconds()
        fresh = self.seldom(max(wall, floor), lambda: self.one(None, self.seconds()))
        return Ask(
            agent=self.seldom(self.one(*AGENTS), lambda: "z"),
            node=self.one(*NODES),
            service=service,
            tool_node=self.one(*NODES),
            not_after=self.seldom(9, self.seconds),
            wall=wall,
            floor=floor,
            as_of=fresh,
            call=self._call(world.services[service].protocol) if service != "z" else None,
            left=self.seldom(
                None,
                lambda: {
                    "services": self.some(*SERVICES),
                    "operations": self._operations(),
                    "until": self.seldom(9, self.seconds),
                },
            ),
        )

    def _call(self, protocol: str) -> HttpCall | McpCall | None:
        if protocol == "tcp" or self._random.random() < 0.1:
            return None
        if protocol == "http":
            query = tuple(
                (self.one(*QUERY, "other"), self.one(*QUERY_VALUES)) for _ in range(self.one(0, 1, 2, 3))
            )
            return HttpCall(self.one(*METHODS), self.one(*PATHS), query)
        method = self.one(
            "tools/call", "tools/call", "resources/read", "prompts/get", "ping", "completion/complete"
        )
        if method == "resources/read":
            return McpCall(method, self.one(*PLAIN_URIS, *PLAIN_URIS, *ODD_URIS))
        if method in ("ping", "completion/complete"):
            return McpCall(method)
        return McpCall(method, self.seldom(self.one(*TOOLS), lambda: "get_\n"), self._arguments())

    def _arguments(self) -> dict[str, Any]:
        full = {
            "amount": self.one(*SCALARS),
            "filter": self.one({"owner": self.one(*SCALARS)}, {}, "me"),
            "items": self.one(
                [],
                [{"id": self.one(*SCALARS)}, {"id": "me"}],
                [{"id": "me"}, {}],
                [1, 2],
                {"0": 7},
            ),
        }
        return {key: full[key] for key in self.some(*full)}
