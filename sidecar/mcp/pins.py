"""Tool definitions are pinned at first sight: a tool that changes is not the tool that was granted. Pure.

A definition is what a model reads of a tool, and what its arguments mean. Whoever takes over a tool's server can keep
the name and change the text. So the digest of the first definition seen is kept, by service and tool, on the tool's
node. A tool seen otherwise has *drifted*: not listed, not callable, until an admin approves the new digest or the
server shows the old definition again. Where the policy pins a tool, its digest counts and nothing else does. A tool
must have been listed once before it can be called: what nobody has seen is nobody's to trust.

Annotations are the tool's own word of how harmless it is: they are believed only when they raise the risk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pki.errors import LocalError
from sidecar.mcp import json
from sidecar.policy.model import Risk
from sidecar.policy.operation import Json

MAX_TOOLS = 1_000
"""Of one service: what a tool's server may make this node remember."""
MAX_NAME_CHARS = 256
MIN_DIGITS = 8
"""Of a digest that somebody names: enough that no server finds another definition with them by the way."""
_ORDER = (Risk.LOW, Risk.MEDIUM, Risk.HIGH)

Key = tuple[str, str]
"""Service and tool."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Hex SHA-256 of definitions: the one that counts, and the one seen last. ``risk`` as the tool hints it."""

    approved: str
    seen: str
    risk: Risk = Risk.LOW

    @property
    def drifted(self) -> bool:
        return self.approved != self.seen


def digest(tool: Mapping[str, Json]) -> str:
    """Of a definition, as it stands in tools/list, whole: hex SHA-256 of its canonical JSON."""
    return json.digest(dict(tool))


def hinted_risk(tool: Mapping[str, Json]) -> Risk:
    """What the annotations say for themselves: high where they admit to destroy, medium where to write."""
    annotations = tool.get("annotations")
    if not isinstance(annotations, dict):
        return Risk.LOW
    if annotations.get("destructiveHint") is True:
        return Risk.HIGH
    return Risk.MEDIUM if annotations.get("readOnlyHint") is False else Risk.LOW


def raised(risk: Risk | None, hint: Risk) -> Risk:
    """The higher of the operators' word and a tool's hint."""
    return max(risk or Risk.LOW, hint, key=_ORDER.index)


Changed = Callable[[Key, Pin], None]


class Pins:
    """What this node has seen of its tools. ``changed`` is called when there is something new to keep."""

    def __init__(self, known: Mapping[Key, Pin], changed: Changed = lambda _key, _pin: None) -> None:
        self._pins = dict(known)
        self._count = Counter(service for service, _ in self._pins)
        self._changed = changed

    def __iter__(self) -> Iterator[tuple[Key, Pin]]:
        return iter(sorted(self._pins.items()))

    def see(self, service: str, tool: Mapping[str, Json], policy: Mapping[Key, str]) -> bool:
        """Take note of a tool that is listed; whether it is as it was pinned."""
        name = tool.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
            return False
        key, seen = (service, name), digest(tool)
        pin = self._pins.get(key)
        if pin is None and self._count[service] >= MAX_TOOLS:
            return False
        made = replace(pin, seen=seen, risk=hinted_risk(tool)) if pin else Pin(seen, seen, hinted_risk(tool))
        if made != pin:
            self._count[service] += pin is None
            self._pins[key] = made
            self._changed(key, made)
        return seen == policy.get(key, made.approved)

    def fault(self, service: str, tool: str, policy: Mapping[Key, str]) -> str:
        """Why a tool may not be called; empty where it is as it was pinned."""
        key = (service, tool)
        pin, pinned = self._pins.get(key), policy.get(key)
        if pin is None:
            if self._count[service] >= MAX_TOOLS:
                return (
                    f"{service} has shown over {MAX_TOOLS} tools, and {tool} is none of those that are pinned"
                )
            return f"this node has not seen the definition of {tool} yet: list the tools first"
        if pinned is not None:
            return "" if pin.seen == pinned else f"{tool} is not defined as the policy pins it"
        return f"the definition of {tool} has changed since it was first seen here" if pin.drifted else ""

    def approve(self, service: str, tool: str, seen: str) -> Pin:
        """What was seen last counts from now on; LocalError where nothing was, or it does not begin with ``seen``."""
        key = (service, tool)
        pin = self._pins.get(key)
        if pin is None:
            raise LocalError(
                f"{service} {tool}: this node has seen no such tool; see: lockgate policy pin ls"
            )
        if len(seen) < MIN_DIGITS or not pin.seen.startswith(seen):
            raise LocalError(f"{service} {tool}: it was seen as {pin.seen} last, not as {seen}")
        self._pins[key] = made = replace(pin, approved=pin.seen)
        self._changed(key, made)
        return made

    def risk(self, service: str, tool: str) -> Risk:
        """The tool's own hint; low where it gave none."""
        pin = self._pins.get((service, tool))
        return pin.risk if pin else Risk.LOW
