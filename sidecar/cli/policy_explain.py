"""`lockgate policy explain`: what a request would be answered, and every step and rule on the way there."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pki.clock import Wall
from pki.errors import LocalError, LockgateError
from sidecar.cli import policy_texts
from sidecar.cli.policy_texts import ACTIVE
from sidecar.cli.policy_words import table
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import NAME, TIME, clock_time, printable
from sidecar.control.client import call
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.policy.decide import Request
    from sidecar.policy.explain import Account, Candidate, Explanation, Step
    from sidecar.policy.model import Policy, Service
    from sidecar.policy.operation import HttpCall, McpCall, Operation
    from sidecar.snapshot import Moment, Snapshot

NEVER = Wall(2**53 - 1)
"""When the certificates end that nobody named."""
MAX_CANDIDATES = 12
"""On a terminal; --json has more."""

_COLOURS = {"ok": "green", "no": "yellow", "allow": "green", "deny": "red", "observed": "yellow"}


@dataclass(frozen=True)
class Asked:
    """What is asked for, in the words of the command line. ``operation``: a method and a name, or nothing."""

    agent: str
    service: str
    operation: tuple[str, ...]
    arguments: str
    node: str | None
    tool_node: str | None


@dataclass(frozen=True)
class World:
    """What it is judged by; ``supposed`` is what nobody looked up."""

    snapshot: "Snapshot"
    moment: "Moment"
    policy: str
    supposed: str


@click.command()
@click.argument("agent", type=NAME)
@click.argument("service", type=NAME)
@click.argument("operation", nargs=-1, metavar="[METHOD NAME]")
@click.option("--arguments", default="{}", metavar="JSON", help="Of the tool or prompt.")
@click.option("--from", "node", type=NAME, metavar="NODE", help="Where the session runs.")
@click.option("--to", "tool_node", type=NAME, metavar="NODE", help="Which of the service's nodes.")
@click.option("--at", type=TIME, help="At this time: 2027-01-31 or 2027-01-31T12:00:00Z.")
@click.option("--policy", "reference", default=ACTIVE, metavar="FILE|N", help="By a file, or an old version.")
@settings_options
def explain(
    settings: Settings,
    agent: str,
    service: str,
    operation: tuple[str, ...],
    arguments: str,
    node: str | None,
    tool_node: str | None,
    at: int | None,
    reference: str,
) -> int:
    """Explain what AGENT's request to SERVICE is answered, step by step and rule by rule.

    A request is a method and a name: GET /api/pages?limit=5, tools/call get_page, resources/read docs://a. Without
    one it is the stream. Judged by this node's policy, locks and clock as they are; at another time, or by another
    policy, as if nothing were locked, revoked or stale. Exit code 1 when it is refused.
    """
    asked = Asked(agent, service, operation, arguments, node, tool_node)
    found, world = _explained(settings, asked, at, reference)
    settings.emit(_row(found, world), "\n".join(_lines(found, world)))
    return Exit.YES if found.decision.allowed else Exit.NO


def _explained(
    settings: Settings, asked: Asked, at: int | None, reference: str
) -> "tuple[Explanation, World]":
    from sidecar.policy.explain import explain as account_for

    world = _world(settings, at, reference)
    policy = world.snapshot.policy
    assert policy is not None  # noqa: S101 - there is a text
    _doubt(settings, "agent", asked.agent, policy.agents)
    _doubt(settings, "service", asked.service, policy.services)
    request = _request(asked, policy, world)
    return account_for(request, world.snapshot, world.moment), world


def _doubt(settings: Settings, kind: str, name: str, known: Collection[str]) -> None:
    """A name that the policy does not have is more often mistyped than asked about."""
    from sidecar.toml import did_you_mean

    if name not in known:
        settings.say(f"the policy has no {kind} {name}; {did_you_mean(name, known) or 'is it spelled so?'}")


# What it is judged by


def _world(settings: Settings, at: int | None, reference: str) -> World:
    from sidecar.snapshot import Snapshot

    text = policy_texts.resolve(settings, reference)
    policy = text.load()
    status = status_of(settings)
    roster = roster_of(status, policy)
    is_real = reference == ACTIVE and at is None and status is not None
    snapshot = Snapshot(policy, "", roster, _restrictions(status if is_real else None), "")
    supposed = "its certificates hold"
    if not is_real:
        supposed = "nothing is locked, revoked or stale, and " + supposed
    return World(snapshot, _moment(status if is_real else None, at), text.name, supposed)


def status_of(settings: Settings) -> dict[str, Any] | None:
    """What the daemon of this directory says of itself; None when none answers."""
    try:
        return call(settings.paths.admin_sock, "GET", "/v1/status")
    except LockgateError:
        return None


def roster_of(status: dict[str, Any] | None, policy: "Policy | None") -> Any:
    """The nodes that there are; without a daemon to ask, all that the policy names."""
    from sidecar.snapshot import NodeMember, Roster

    if status is not None:
        labels = status.get("labels", {})
        members = {
            name: NodeMember(name, (), "", (), tuple(labels.get(name, ()))) for name in status["nodes"]
        }
        return Roster(members, {})
    agents = [agent.nodes for agent in policy.agents.values()] if policy else []
    services = [service.nodes for service in policy.services.values()] if policy else []
    named: frozenset[str] = frozenset().union(*agents, *services)
    return Roster({name: NodeMember(name, (), "", (), ()) for name in named}, {})


def _restrictions(status: dict[str, Any] | None) -> Any:
    from sidecar.snapshot import LockInForce, Restrictions, RevocationInForce, Target

    def target(text: str) -> Target:
        kind, _, value = text.partition(":")
        return Target(kind, value)

    if status is None:
        return Restrictions()
    locks = (
        LockInForce(one["id"], target(one["target"]), Wall(one["until"]), one["by"], one["message"])
        for one in status["locks"]
    )
    revocations = (
        RevocationInForce(one["id"], target(one["target"]), one["by"]) for one in status["revocations"]
    )
    return Restrictions(locks, revocations)


def _moment(status: dict[str, Any] | None, at: int | None) -> "Moment":
    from pki.clock import SystemClock
    from sidecar.snapshot import Moment

    if status is None:
        now = SystemClock().wall() if at is None else Wall(at)
        return Moment(now, now, now)
    as_of = status.get("fresh_as_of", status["wall"])  # the CA is never stale
    return Moment(Wall(status["wall"]), Wall(status["floor"]), None if as_of is None else Wall(as_of))


# What is asked


def _request(asked: Asked, policy: "Policy", world: World) -> "Request":
    from pki.ids import ID_BYTES, new_id
    from pki.spiffe import SpiffeId
    from sidecar.policy.decide import Request
    from sidecar.snapshot import nodes_of

    agent, service = policy.agents.get(asked.agent), policy.services.get(asked.service)
    roster = world.snapshot.roster
    # "nowhere" is a node that no roster here has. Of what the policy does not know, any node will do.
    home = asked.node or min(agent.nodes if agent else roster.nodes, default="nowhere")
    beside = nodes_of(service, roster) if service else roster.nodes
    return Request(
        session=SpiffeId.for_agent("policy-explain", asked.agent, home, new_id(bytes(ID_BYTES))),
        service=asked.service,
        tool_node=asked.tool_node or min(beside, default="nowhere"),
        serials=(),
        not_after=NEVER,
        operation=_operation(asked, service, policy) if asked.operation else None,
    )


def _operation(asked: Asked, service: "Service | None", policy: "Policy") -> "Operation | None":
    from sidecar.policy.asked import operation_of

    if len(asked.operation) != 2:
        raise click.UsageError("a request is a method and a name: GET /api/pages, or tools/call get_page")
    if service is None:
        return None
    if service.protocol == "tcp":
        raise click.UsageError(f"service {service.name} speaks tcp: its streams are decided, not requests")
    made = _http_call(asked) if service.protocol == "http" else _mcp_call(asked)
    return operation_of(made, service, policy)


def _http_call(asked: Asked) -> "HttpCall":
    """In its normal form, as the tool's node would decide it."""
    from sidecar.http.normal import normal_target, query_pairs
    from sidecar.http.seams import MalformedError
    from sidecar.policy.operation import HttpCall

    method, target = asked.operation
    try:
        path, query = normal_target(target.encode())
        return HttpCall(method.upper(), path, query_pairs(query))
    except MalformedError as error:
        raise LocalError(f"{target}: {error}; refused as bad_request, before any rule is asked") from None


def _mcp_call(asked: Asked) -> "McpCall":
    from sidecar.policy.operation import McpCall

    try:
        arguments = json.loads(asked.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise click.UsageError("--arguments: a JSON object such as '{\"amount\": 5}'")
    method, name = asked.operation
    return McpCall(method, name, arguments)


# Words


def _lines(found: "Explanation", world: World) -> Iterator[str]:
    request, decision = found.request, found.decision
    yield _headline(found)
    yield (
        f"by {world.policy}, from {request.session.node} to {request.tool_node},"
        f" at {clock_time(world.moment.now)}, supposing that {world.supposed}"
    )
    for account in found.accounts:
        yield ""
        if len(found.accounts) > 1:
            yield f"in segment {account.segment}:"
        yield from map(_step_line, account.steps)
        yield from _rule_lines(account)
    if decision.hint and not decision.allowed:
        yield ""
        yield f"the agent is told: {printable(decision.hint)}"


def _headline(found: "Explanation") -> str:
    request, decision = found.request, found.decision
    operation = f": {request.operation.method} {request.operation.name}" if request.operation else ""
    what = f"agent {request.session.name} to service {request.service}{printable(operation)}"
    place = f" in {decision.segment}" if decision.segment else ""
    kind = f" ({decision.operation_class})" if decision.operation_class else ""
    if decision.would_deny:
        verdict = click.style(f"passed, only observed: {decision.would_deny}", fg="yellow")
    elif decision.allowed:
        verdict = click.style(f"allowed by {decision.rule}, line {decision.line}", fg="green")
    else:
        verdict = click.style(f"refused: {decision.reason}", fg="red")
    return f"{what}{place}{kind}: {verdict}"


def _step_line(step: "Step") -> str:
    answer = click.style(f"{step.answer:8}", fg=_COLOURS[step.answer])
    line = f" (line {step.line})" if step.line else ""
    why = "no certificate is looked at here" if step.name == "expired" else printable(step.why)
    return f"  {answer} {step.name:17} {why}{line}"


def _rule_lines(account: "Account") -> Iterator[str]:
    shown = account.candidates[:MAX_CANDIDATES]
    if not shown:
        return
    yield ""
    yield from (
        f"  {line}" for line in table(("RULE", "LINE", "WHY", ""), map(_rule_cells, shown)).splitlines()
    )
    more = len(account.candidates) - len(shown) + account.others
    if more:
        yield f"  ... and {more} rules more that name the agent, the service or its segment"


def _rule_cells(one: "Candidate") -> tuple[str, ...]:
    checks = ", ".join(f"{'' if check.holds else 'not '}{check.what.strip()}" for check in one.checks)
    return f"{one.rule.effect} {one.rule.id}", str(one.rule.line), one.why, checks


def _row(found: "Explanation", world: World) -> dict[str, Any]:
    request, decision = found.request, found.decision
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "would_deny": decision.would_deny,
        "rule": decision.rule,
        "line": decision.line,
        "hint": decision.hint,
        "segment": decision.segment,
        "class": decision.operation_class,
        "policy": world.policy,
        "at": world.moment.now,
        "supposed": world.supposed,
        "agent": request.session.name,
        "service": request.service,
        "from": request.session.node,
        "to": request.tool_node,
        "operation": [request.operation.method, request.operation.name] if request.operation else None,
        "accounts": [_account_row(account) for account in found.accounts],
    }


def _account_row(account: "Account") -> dict[str, Any]:
    return {
        "segment": account.segment,
        "steps": [
            {"step": step.name, "answer": step.answer, "why": step.why, "rule": step.rule, "line": step.line}
            for step in account.steps
        ],
        "rules": [
            {
                "rule": one.rule.id,
                "effect": one.rule.effect,
                "line": one.rule.line,
                "matches": one.matches,
                "speaks": one.speaks,
                "why": one.why,
                "checks": [{"what": check.what.strip(), "holds": check.holds} for check in one.checks],
            }
            for one in account.candidates
        ],
        "others": account.others,
    }
