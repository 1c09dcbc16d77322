"""Grants for what was seen and no rule covers: TOML to read, prune and take over. Pure.

One grant for each agent and service, with one line for each kind of operation and what was seen of it beside it. What
was seen rarely is marked: it may be the mistake, or the attack, that nobody should grant for good.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from sidecar.audit.inventory import STREAM, Line
from sidecar.policy.model import Policy, Protocol, Service

RARE = 3
"""Seen less often than this is marked."""

_MCP_LISTS = {"tools/call": "tools", "prompts/get": "prompts", "resources/read": "resources"}


def suggestions(lines: Iterable[Line], policy: Policy) -> str:
    """The text; empty where every need is covered."""
    needs = [line for line in lines if not line.is_covered and _is_known(line, policy)]
    by_pair = groupby(sorted(needs, key=_pair), key=_pair)
    return "\n".join(
        "".join(f"{one}\n" for one in _grant(pair, list(found), policy)) for pair, found in by_pair
    )


def _pair(line: Line) -> tuple[str, str]:
    return line.agent, line.service


def _is_known(line: Line, policy: Policy) -> bool:
    return line.agent in policy.agents and line.service in policy.services


def _grant(pair: tuple[str, str], lines: list[Line], policy: Policy) -> Iterator[str]:
    agent, name = pair
    service = policy.services[name]
    patterns = [*_patterns(lines, service)]
    yield "[[grants]]                          # suggested; keep what you understand"
    yield f'id = "seen-{agent}-{name}"'[:80]
    yield f'agents = ["{agent}"]'
    yield f'services = ["{name}"]'
    if service.protocol is Protocol.TCP:
        [line] = lines
        yield f"# {_evidence(line)}"
    elif patterns:
        yield f"{service.protocol.value} = ["
        yield from (f"    {pattern},  # {evidence}" for pattern, evidence in patterns)
        yield "]"
    else:
        yield f"# nothing of it can be granted by a pattern: {len(lines)} kinds of operations"


def _patterns(lines: list[Line], service: Service) -> Iterator[tuple[str, str]]:
    for line in lines:
        method, _, name = line.operation.partition(" ")
        if service.protocol is Protocol.HTTP and name.startswith("/"):
            yield f'{{ methods = ["{method}"], path = {_quoted(name)} }}', _evidence(line)
        elif service.protocol is Protocol.MCP and name and method in _MCP_LISTS:
            yield f"{{ {_MCP_LISTS[method]} = [{_quoted(name)}] }}", _evidence(line)


def _evidence(line: Line) -> str:
    count = line.would_deny + line.denied
    seen = f"seen {count} times" if line.operation != STREAM else f"{count} streams seen"
    refused = f", {line.denied} of them refused" if line.denied else ""
    return f"{seen}{refused}{'; RARE' if count < RARE else ''}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
