"""The header fields that are forwarded: what belongs to one connection goes, what says who asks is set by us. Pure.

A tool may believe `Lockgate-*`: what the agent sends under these names, and under those that proxies use to say who
asks, is removed. So is every spelling that a tool could take for one of them: CGI and WSGI make `-`, `_` and `.` the
same, so `Lockgate_Agent` would arrive as `HTTP_LOCKGATE_AGENT` too.
"""

import re
from dataclasses import dataclass

from sidecar.http.seams import Fields, Head

_PER_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_IDENTITY = frozenset(
    {
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-remote-user",
        b"remote-user",
        b"x-client-cert",
        b"x-ssl-client-cert",
        b"client-cert",
        b"client-cert-chain",
    }
)
_IDENTITY_PREFIXES = (
    b"lockgate-",
    b"x-lockgate-",
    b"x-forwarded-",
    b"x-original-forwarded-",
    b"x-ssl-client-",
)
_OF_RESPONSES = frozenset({b"content-length", b"content-type", b"content-encoding", b"mcp-session-id"})
"""What a tool's Connection field does not take away. A request that tries is refused (:mod:`sidecar.http.normal`)."""
_SEPARATORS = re.compile(rb"[^a-z0-9-]")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, verified. The names are safe in a field: a roster's and SPIFFE's."""

    agent: str
    session: str
    stream: str
    on_behalf_of: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is set on one forwarded request. ``credential``: a field that the agent never holds, None for none."""

    identity: Identity
    request: str
    traceparent: str = ""
    credential: tuple[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """``host``: the service's own, empty for the one that was asked for. ``length``: of a body that a dialect gives."""

    host: bytes = b""
    length: int | None = None
    plain: bool = False
    """No content coding: the response will be read."""


def request_fields(head: Head, marks: Marks, changes: Changes) -> Fields:
    """What is forwarded with ``head``."""
    dropped = _connection_options(head.fields) | {b"host"}
    replaced = {canonical(marks.credential[0])} if marks.credential else set()
    if changes.length is not None:
        dropped |= {b"content-length", b"expect"}
    if changes.plain:
        dropped |= {b"accept-encoding"}
    if not marks.traceparent.startswith(_trace_of(head)):
        dropped |= {b"tracestate"}  # It tells of a trace that ends here.
    kept = tuple(
        (name, value)
        for name, value in head.fields
        if name not in dropped and not _is_ours(name) and canonical(name) not in replaced
    )
    return ((b"Host", changes.host or head.host), *kept, *_framing(head, changes), *_marks(marks))


def response_fields(fields: Fields, request: str) -> Fields:
    """What the agent gets of a final response's fields, framing left out: h11 adds it."""
    dropped = _connection_options(fields)
    kept = tuple(
        (name, value) for name, value in fields if name not in dropped and not _is_marked(canonical(name))
    )
    return (*kept, (b"Lockgate-Request", request.encode()))


def canonical(name: bytes) -> bytes:
    """One spelling for all names that a tool might not tell apart."""
    return _SEPARATORS.sub(b"-", name.lower())


def _connection_options(fields: Fields) -> frozenset[bytes]:
    named = {
        part.strip().lower() for name, value in fields if name == b"connection" for part in value.split(b",")
    }
    return _PER_CONNECTION | (named - _OF_RESPONSES)


def _is_ours(name: bytes) -> bool:
    plain = canonical(name)
    # A name with odd separators is its own, unless it could be taken for one that frames or names.
    is_copy = plain != name and plain in _PER_CONNECTION
    return _is_marked(plain) or plain in _IDENTITY or is_copy or plain.startswith(_IDENTITY_PREFIXES)


def _is_marked(plain: bytes) -> bool:
    return plain.startswith(b"lockgate-") or plain == b"traceparent"


def _trace_of(head: Head) -> str:
    found = head.values(b"traceparent")
    return found[0][:36].decode("latin-1") if len(found) == 1 and len(found[0]) > 35 else "none"


def _framing(head: Head, changes: Changes) -> Fields:
    if head.upgrades:
        return ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    framing: Fields = ()
    if changes.length is not None:
        framing = ((b"Content-Length", b"%d" % changes.length),)
    elif head.values(b"transfer-encoding"):
        framing = ((b"Transfer-Encoding", b"chunked"),)
    return (*framing, (b"Accept-Encoding", b"identity")) if changes.plain else framing


def _marks(marks: Marks) -> Fields:
    identity = marks.identity
    named = {
        b"Lockgate-Agent": identity.agent,
        b"Lockgate-Session": identity.session,
        b"Lockgate-On-Behalf-Of": _spelled(identity.on_behalf_of),
        b"Lockgate-Stream": identity.stream,
        b"Lockgate-Request": marks.request,
        b"Via": "1.1 lockgate",
        b"traceparent": marks.traceparent,
    }
    set_fields = tuple((name, value.encode("ascii", "replace")) for name, value in named.items() if value)
    return (*set_fields, marks.credential) if marks.credential else set_fields


def _spelled(user: str) -> str:
    """A name in ASCII, percent-encoded where it is not: two users must not look the same to a tool."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != ord("%") else f"%{byte:02X}" for byte in user.encode()
    )
