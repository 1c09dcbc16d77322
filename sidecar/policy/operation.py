"""What one request inside a stream does, as far as a decision reads it.

A *call* is what a parser made of the bytes: :class:`HttpCall`, :class:`McpCall`. It may hold secrets. An *operation*
is what is left of it for the decision, the record and the cache: the names, and which predicates of the policy hold
for its query or arguments, never a value of either. So a decision can be run again from its record alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

TOOLS_CALL = "tools/call"

LISTEN, CLOSE, RESPONSE = "GET", "DELETE", "response"
"""What an MCP client sends without a method of JSON-RPC: to hear what the server says of its own accord, to end its
session there, and to answer a question of the server."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class HttpCall:
    """An HTTP request in its normal form, the one that is forwarded (:mod:`sidecar.http.normal`).

    ``method`` is an upper-case token; ``path`` is absolute, without dot segments, percent-encoded as it is forwarded;
    ``query`` holds the decoded names and values in their order, a name as often as it occurs.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class McpCall:
    """One JSON-RPC request or notification of an MCP client.

    ``method`` is JSON-RPC's; ``name`` the tool, prompt, or resource URI that it is about, empty for methods without
    one; ``arguments`` those of a tool or prompt, ``digest`` the hex SHA-256 of their canonical JSON, for the record.
    """

    method: str
    name: str = ""
    arguments: Mapping[str, Json] = field(default_factory=dict, repr=False)
    digest: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Operation:
    """``method`` and ``name`` as in the call (``name`` is the path for HTTP). ``holds``: the fulfilled predicates.

    ``arguments``: the call's digest, where a lease of the session is bound to one; else empty, so that calls which are
    decided alike are alike.
    """

    method: str
    name: str
    holds: frozenset[str] = frozenset()
    arguments: str = ""
