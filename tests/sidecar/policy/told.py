"""What the reference page says of a request: the rules as they are told to people, searched from the top each time.

It shares no code with the decision. It reads the policy as it is written and the request as it was made: no index, no
compiled pattern, no operation. Slow and plain, so that it can be compared with the page line by line.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from sidecar.policy.operation import HttpCall, McpCall
from tests.sidecar.policy.language import AGENTS, ODD_URIS, SEGMENTS, Ask, Service, World
from tests.sidecar.policy.world import SESSION


@dataclass(frozen=True)
class Expected:
    """``reason`` None allows; ``would`` is what an observed segment passed. ``rule`` as far as one rule speaks."""

    reason: str | None
    would: str | None = None
    rule: str | None = None
    segment: str = ""
    of_class: str | None = None


def expected(world: World, ask: Ask, *, live: bool) -> Expected:
    """What the reference page says."""
    service = world.services.get(ask.service)
    if service is None:
        return _in_segment(world, ask, None, live=live)
    call = None if _is_conversation(ask.call) else ask.call
    if call is not None:
        return _in_segment(world, ask, _segment_of(service, call)[0], live=live)
    # A stream opens if some request could be allowed, in whatever segment.
    segments = [service.segment, *(row["segment"] or service.segment for row in service.operations)]
    answers = [_in_segment(world, ask, segment, live=live) for segment in dict.fromkeys(segments)]
    for answer in answers:
        if answer.reason is None and answer.would is None:
            return answer
    return next((answer for answer in answers if answer.reason is None), answers[0])


def _is_conversation(call: HttpCall | McpCall | None) -> bool:
    return call is not None and call.method == "ping"


def _segment_of(service: Service, call: HttpCall | McpCall) -> tuple[str, str]:
    """Segment and class of a request: the first entry of the service's operations that names it says."""
    special: dict[str, Any] = next((row for row in service.operations if _names(row, call)), {})
    segment = special.get("segment") or service.segment
    if isinstance(call, HttpCall):
        by_method = "read" if call.method == "GET" else "mutate"
    else:
        by_method = SEGMENTS[segment]["class"] if call.method == "tools/call" else "read"  # type: ignore[assignment]  # a table of several kinds
    return segment, special.get("class") or by_method


def _names(row: dict[str, Any], call: HttpCall | McpCall) -> bool:
    if isinstance(call, HttpCall):
        return bool({"*", call.method} & set(row["methods"])) and _path_fits(row["path"], call.path)
    return call.method == "tools/call" and any(_glob_fits(one, call.name) for one in row["tools"])


def _in_segment(world: World, ask: Ask, segment: str | None, *, live: bool) -> Expected:
    service = world.services.get(ask.service)
    of_class = None
    if service and segment:
        is_stream = ask.call is None or _is_conversation(ask.call)
        of_class = SEGMENTS[segment]["class"] if is_stream else _segment_of(service, ask.call)[1]  # type: ignore[arg-type]  # no call, no request
        if _is_conversation(ask.call):
            of_class = "read"
    hard = _stopped(world, ask, segment) or _misplaced(world, ask)
    if hard:
        return Expected(hard, segment=segment or "", of_class=of_class)  # type: ignore[arg-type]  # as above
    if service is None or segment is None or ask.agent not in AGENTS:
        return Expected("no_grant", segment=segment or "", of_class=of_class)  # type: ignore[arg-type]  # as above
    soft: list[tuple[str, str | None]] = []
    if _is_stale(ask, segment, live=live):
        soft.append(("stale", None))
    if _is_narrowed(ask, service):
        narrowed = Expected("narrowed", segment=segment, of_class=of_class)  # type: ignore[arg-type]  # as above
        return narrowed if not soft or SEGMENTS[segment]["observe"] else _said(soft[0], segment, of_class)
    soft += _ruled(world, ask, service, segment)
    if soft[0][0] == "allow":
        return Expected(None, None, soft[0][1], segment, of_class)  # type: ignore[arg-type]  # as above
    return _said(soft[0], segment, of_class)


def _said(first: tuple[str, str | None], segment: str, of_class: Any) -> Expected:
    reason, rule = first
    if SEGMENTS[segment]["observe"]:
        return Expected(None, reason, rule, segment, of_class)
    return Expected(reason, None, rule, segment, of_class)


def _stopped(world: World, ask: Ask, segment: str | None) -> str | None:
    """Locks end by the floor, certificates by the later clock; a revocation never ends."""
    names = {
        "all": [""],
        "agent": [ask.agent],
        "session": [SESSION, "child"] if ask.left else [SESSION],
        "node": [ask.node, ask.tool_node],
        "service": [ask.service],
        "segment": [segment or "none"],
        "serial": ["ab"],
    }
    if any(target.value in names[target.kind] and ask.floor < until for target, until in world.locks):
        return "locked"
    if any(target.value in names[target.kind] for target in world.revoked):
        return "revoked"
    return "expired" if ask.now >= ask.not_after else None


def _misplaced(world: World, ask: Ask) -> str | None:
    service = world.services.get(ask.service)
    if not {ask.node, ask.tool_node} <= set(world.members):
        return "misbound"
    if ask.agent in AGENTS and ask.node not in world.agents[ask.agent]:
        return "misbound"
    if service and service.labels and not set(service.labels) <= set(world.members[ask.tool_node]):
        return "misbound"
    if service and not service.labels and ask.tool_node not in service.nodes:
        return "misbound"
    return None


def _is_stale(ask: Ask, segment: str, *, live: bool) -> bool:
    """At stale-after for what is new; at twice that for what is live, and only where staleness cuts."""
    of: dict[str, Any] = SEGMENTS[segment]
    if live and not of["cut"]:
        return False
    return ask.as_of is None or ask.now - ask.as_of >= of["stale"] * (2 if live else 1)


def _is_narrowed(ask: Ask, service: Service) -> bool:
    left = ask.left
    if left is None:
        return False
    if ask.now >= left["until"] or ask.service not in left["services"]:
        return True
    return not _left(left["operations"], ask, service)


def _left(operations: tuple[str, ...] | None, ask: Ask, service: Service) -> bool:
    """None leaves all. In a tcp stream no operation can be told. A name with two readings is in no list."""
    if operations is None:
        return True
    if ask.call is None or _is_conversation(ask.call):
        return service.protocol != "tcp"
    name = ask.call.path if isinstance(ask.call, HttpCall) else ask.call.name
    if not name:
        return True
    if name in ODD_URIS or "\n" in name:
        return False
    for operation in operations:
        method, _, pattern = operation.partition(" ")
        if method in ("*", ask.call.method) and _uri_fits(pattern, name):
            return True
    return False


def _ruled(world: World, ask: Ask, service: Service, segment: str) -> list[tuple[str, str | None]]:
    """A deny wins, then a grant allows, then a lease; else no_grant. Denies end by the floor, the rest by the later."""
    denies = [rule for rule in world.denies if _meets(rule, ask, service, segment, is_deny=True)]
    grants = [rule for rule in world.grants if _meets(rule, ask, service, segment, is_deny=False)]
    found: list[tuple[str, str | None]] = []
    if deny := _longest(rule for rule in denies if rule["expires"] is None or ask.floor < rule["expires"]):
        found.append(("denied", deny["id"]))
    if grant := _longest(rule for rule in grants if rule["expires"] is None or ask.now < rule["expires"]):
        return [*found, ("allow", grant["id"])]
    leases = [row for row in world.leases if _leased(world, row, ask, service, segment)]
    if any(ask.now < row["until"] for row in leases):
        return [*found, ("allow", None)]
    return [*found, ("lease_ended" if leases else "no_grant", None)]


def _longest(rules: Any) -> dict[str, Any] | None:
    """Of several that match, the one that lasts longest speaks; among equals the first in the file."""
    best: dict[str, Any] | None = None
    for rule in rules:
        ends = float("inf") if rule["expires"] is None else rule["expires"]
        if best is None or ends > (float("inf") if best["expires"] is None else best["expires"]):
            best = rule
    return best


def _leased(world: World, lease: dict[str, Any], ask: Ask, service: Service, segment: str) -> bool:
    """A lease is of one session, and gives no more than its escalation would now."""
    rule = next((row for row in world.escalations if row["id"] == lease["rule"]), None)
    if (
        rule is None
        or lease["session"] != SESSION
        or ask.agent not in rule["agents"]
        or rule["to"] != segment
    ):
        return False
    is_named = ask.service in rule["services"] and ask.service in lease["services"]
    return is_named and _left(lease["operations"], ask, service)


def _meets(rule: dict[str, Any], ask: Ask, service: Service, segment: str, *, is_deny: bool) -> bool:
    if ask.agent not in rule["agents"]:
        return False
    if ask.service not in rule["services"] and segment not in rule["segments"]:
        return False
    if "http" not in rule and "mcp" not in rule:
        return True
    patterns = rule.get(service.protocol, [])
    if ask.call is None or _is_conversation(ask.call):
        # The stream: a grant of some requests opens it, a deny of some does not close it.
        return bool(patterns) and not is_deny
    return any(_pattern_fits(pattern, ask.call, is_deny=is_deny) for pattern in patterns)


def _pattern_fits(pattern: dict[str, Any], call: HttpCall | McpCall, *, is_deny: bool) -> bool:
    if isinstance(call, HttpCall):
        any_method = "*" in pattern["methods"] and (is_deny or call.method != "CONNECT")
        if not any_method and call.method not in pattern["methods"]:
            return False
        asked = {name: [value for known, value in call.query if known == name] for name in pattern["query"]}
        return _path_fits(pattern["path"], call.path) and all(
            _holds(test, asked[name], is_deny=is_deny, is_query=True)
            for name, test in pattern["query"].items()
        )
    kind = {"tools/call": "tools", "resources/read": "resources", "prompts/get": "prompts"}.get(call.method)
    if kind is None or kind not in pattern:
        return False
    if call.name in ODD_URIS or "\n" in call.name:
        return is_deny
    fits = _uri_fits if kind == "resources" else _name_fits
    return any(fits(one, call.name) for one in pattern[kind]) and all(
        _holds(test, _values(dict(call.arguments), path), is_deny=is_deny, is_query=False)
        for path, test in pattern.get("arguments", {}).items()
    )


GONE = object()


def _values(arguments: Any, path: str) -> list[Any]:
    """What stands at a path. With [*], an element without the rest of the path counts, as a value of no kind."""
    found = [arguments]
    for step in re.findall(r"[a-z]+|\*|[0-9]+", path):
        deeper: list[Any] = []
        for value in found:
            if step == "*":
                deeper += value if isinstance(value, list) else [GONE]
            elif step.isdigit():
                deeper.append(
                    value[int(step)] if isinstance(value, list) and len(value) > int(step) else GONE
                )
            else:
                deeper.append(value.get(step, GONE) if isinstance(value, dict) else GONE)
        found = deeper
    return found if "*" in path else [value for value in found if value is not GONE]


def _holds(test: dict[str, Any], values: list[Any], *, is_deny: bool, is_query: bool) -> bool:
    """In a grant every value must fulfil it and there must be one; in a deny one is enough."""
    if "absent" in test:
        return all(value is GONE for value in values)
    fulfilled = [_fulfils(test, value, is_deny=is_deny, is_query=is_query) for value in values]
    return any(fulfilled) if is_deny else bool(values) and all(fulfilled)


def _fulfils(test: dict[str, Any], value: Any, *, is_deny: bool, is_query: bool) -> bool:
    if value is GONE:
        return False
    if "present" in test:
        return True
    if "equals" in test or "in" in test:
        return any(_equal(value, one) for one in test.get("in", [test.get("equals")]))
    if "prefix" in test:
        return isinstance(value, str) and value.startswith(test["prefix"])
    number = value
    if is_query:
        number = float(value) if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", value) else None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        return is_deny  # What is no number cannot be compared: no grant trusts it, every deny stops it.
    return bool(test.get("min", number) <= number <= test.get("max", number))


def _equal(value: Any, known: Any) -> bool:
    kinds = {bool: "bool", str: "text", int: "number", float: "number"}
    return kinds.get(type(value)) == kinds[type(known)] and value == known


def _path_fits(pattern: str, path: str) -> bool:
    """* is a whole segment that is not empty; a ** at the end is any number of segments, also none."""
    rest = "(/.*)?" if pattern.endswith("/**") else ""
    fixed = pattern.removesuffix("/**") if rest else pattern
    segments = ["[^/]+" if one == "*" else re.escape(one) for one in fixed.split("/")]
    return re.fullmatch("/".join(segments) + rest, path) is not None


def _name_fits(pattern: str, name: str) -> bool:
    """* is any run of characters, in a name that has no control characters."""
    return "\n" not in name and _glob_fits(pattern, name)


def _glob_fits(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def _uri_fits(pattern: str, uri: str) -> bool:
    """* is any run without a slash, ** any run."""
    parts = ["[^/]*".join(map(re.escape, part.split("*"))) for part in pattern.split("**")]
    return re.fullmatch(".*".join(parts), uri) is not None
