"""SPIFFE IDs of a mesh, parsed once into values that cannot be bad.

The four shapes (SPIFFE-ID section 2, narrowed to what a mesh uses):

    spiffe://<trust-domain>/node/<name>
    spiffe://<trust-domain>/agent/<name>/<node>/<session>
    spiffe://<trust-domain>/operator/<name>
    spiffe://<trust-domain>/ca/<name>
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pki.errors import RemoteError
from pki.ids import is_id

MAX_SPIFFE_ID_BYTES = 512
MAX_TRUST_DOMAIN_BYTES = 255

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


def is_name(text: str) -> bool:
    """Whether ``text`` is a name: 1-63 of a-z, 0-9 and inner hyphens (RFC 1123 label, lower case)."""
    return _NAME.fullmatch(text) is not None


def is_trust_domain(text: str) -> bool:
    """Whether ``text`` is a trust domain name (SPIFFE-ID section 2.1), at most 255 bytes."""
    return len(text) <= MAX_TRUST_DOMAIN_BYTES and _TRUST_DOMAIN.fullmatch(text) is not None


class IdKind(StrEnum):
    """What a SPIFFE ID stands for: the first segment of its path."""

    NODE = "node"
    AGENT = "agent"
    OPERATOR = "operator"
    CA = "ca"


_SEGMENTS = {IdKind.NODE: 2, IdKind.AGENT: 4, IdKind.OPERATOR: 2, IdKind.CA: 2}


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A valid SPIFFE ID of a mesh. Make one with :meth:`parse` or a named constructor."""

    trust_domain: str
    path: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse whatever is not one of the four shapes; raises RemoteError."""
        if not is_trust_domain(self.trust_domain):
            raise RemoteError("SPIFFE ID: not a trust domain name")
        kind = self.path[0] if self.path else ""
        if kind not in _SEGMENTS or len(self.path) != _SEGMENTS[IdKind(kind)]:
            raise RemoteError("SPIFFE ID: the path is none of /node/N, /agent/A/N/S, /operator/N, /ca/N")
        names, session = (self.path[1:3], self.path[3]) if kind == IdKind.AGENT else (self.path[1:], None)
        if not all(map(is_name, names)):
            raise RemoteError("SPIFFE ID: a path segment is not a name")
        if session is not None and not is_id(session):
            raise RemoteError("SPIFFE ID: the session is not a 26-character id")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of ``text``; raises RemoteError when it is not exactly one of the four shapes."""
        if len(text) > MAX_SPIFFE_ID_BYTES:
            raise RemoteError("SPIFFE ID: longer than 512 bytes")
        scheme, _, rest = text.partition("://")
        if scheme != "spiffe":
            raise RemoteError("SPIFFE ID: the scheme is not spiffe")
        trust_domain, _, path = rest.partition("/")
        return cls(trust_domain, tuple(path.split("/")))

    @classmethod
    def for_node(cls, trust_domain: str, name: str) -> Self:
        return cls(trust_domain, (IdKind.NODE, name))

    @classmethod
    def for_agent(cls, trust_domain: str, agent: str, node: str, session: str) -> Self:
        return cls(trust_domain, (IdKind.AGENT, agent, node, session))

    @classmethod
    def for_operator(cls, trust_domain: str, name: str) -> Self:
        return cls(trust_domain, (IdKind.OPERATOR, name))

    @classmethod
    def for_ca(cls, trust_domain: str, name: str) -> Self:
        return cls(trust_domain, (IdKind.CA, name))

    @property
    def kind(self) -> IdKind:
        return IdKind(self.path[0])

    @property
    def name(self) -> str:
        """The node's, agent's, operator's or CA's own name."""
        return self.path[1]

    @property
    def node(self) -> str:
        """The node an agent's session is bound to, or the node itself; empty for the others."""
        if self.kind is IdKind.AGENT:
            return self.path[2]
        return self.path[1] if self.kind is IdKind.NODE else ""

    @property
    def session(self) -> str:
        """The session's id; empty for anything but an agent's session."""
        return self.path[3] if self.kind is IdKind.AGENT else ""

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{'/'.join(self.path)}"
