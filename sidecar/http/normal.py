r"""The normal form of a request: what is decided on, and exactly what is forwarded. Pure.

Two readers of one path may see two resources: `/a/../b`, `/a%2fb`, `/%61`, `//a`, `/a\b`. So what servers are known
to read differently is refused, and of all other spellings of one path a single one is left:

1. The target is a path and a query (origin form). No fragment, no authority, no `*`.
2. A path has no empty segment but the last, none that is `.` or `..` (also before a `;`), no backslash, no control
   byte, no encoded slash, and is UTF-8; nothing in it is encoded twice. It has no `;` unless the service says that its
   tool takes that for a character like any other: to Tomcat and its kin `/admin;x/users` is `/admin/users`.
3. What needs no encoding has none: `%61` is `a`, `%40` is `@`. What needs one has it, in upper case. `;` and `+` stay
   as they are sent, since they are read differently when they are encoded.
4. A query is read as a form: pairs between `&`, names and values UTF-8. A `;` there, which old servers take for a `&`,
   is encoded, so that it is a part of its value for all.
"""

import re
from dataclasses import dataclass

from sidecar.http.headers import canonical
from sidecar.http.seams import Fields, Head, MalformedError
from sidecar.policy.operation import HttpCall

MAX_TARGET_BYTES = 8_192
MAX_PAIRS = 512

WEBSOCKET = "WEBSOCKET"
"""The method of the call that asks for an upgrade: a grant of GET must not open a connection for both ways."""

_METHOD = re.compile(rb"[A-Z]{1,20}(-[A-Z]{1,20})?")
_REFUSED_METHODS = {
    b"CONNECT": "CONNECT: the target of a service is fixed",
    b"TRACE": "TRACE would show the fields that are added for the tool",
    WEBSOCKET.encode(): "WEBSOCKET names an upgrade, it is no method",
}
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_TWICE = re.compile(rb"%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN_IN_PATH = _UNRESERVED | frozenset(b"!$&'()*,:@=")
_AS_SENT_IN_PATH = _PLAIN_IN_PATH | frozenset(b";+/")
_AS_SENT_IN_QUERY = _UNRESERVED | frozenset(b"!$&'()*,:@=+/?")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a service's requests are read. ``hosts``: what Host may be, in lower case. ``parameters``: a ``;`` may pass."""

    hosts: frozenset[str]
    parameters: bool = False


def normal_head(method: bytes, target: bytes, fields: Fields, reading: Reading) -> Head:
    """The head in its normal form; raises MalformedError."""
    _check_names(fields)
    host = _check_host(fields, reading.hosts)
    _check_origin(fields, reading.hosts)
    upgrades = _wants_websocket(method, fields)
    if method in _REFUSED_METHODS:
        raise MalformedError(_REFUSED_METHODS[method], status=405)
    if _METHOD.fullmatch(method) is None:
        raise MalformedError("the method is not in capital letters")
    path, query = normal_target(target)
    if ";" in path and not reading.parameters:
        raise MalformedError("a ; in the path: some servers read none of what follows it")
    whole = f"{path}?{query}" if query else path
    call = HttpCall(WEBSOCKET if upgrades else method.decode(), path, query_pairs(query))
    return Head(call, method, whole.encode(), host, fields, upgrades)


def normal_target(target: bytes) -> tuple[str, str]:
    """Path and query of a request target, each in normal form; raises MalformedError."""
    if len(target) > MAX_TARGET_BYTES:
        raise MalformedError(f"the target is longer than {MAX_TARGET_BYTES} bytes", status=414)
    if not target.startswith(b"/"):
        raise MalformedError("the target is not a path: a proxy's form, or none")
    if b"#" in target:
        raise MalformedError("a fragment in the target")
    path, _, query = target.partition(b"?")
    return _normal_path(path), _normal_query(query)


def normal_path(path: str) -> str:
    """The normal form of a path alone, as a policy may name it; raises MalformedError."""
    return _normal_path(path.encode(errors="surrogateescape"))


def query_pairs(query: str) -> tuple[tuple[str, str], ...]:
    """Names and values of a query in normal form, decoded, in their order; raises MalformedError."""
    parts = [part for part in query.split("&") if part]
    if len(parts) > MAX_PAIRS:
        raise MalformedError(f"more than {MAX_PAIRS} query parameters", status=414)
    pairs = (part.partition("=") for part in parts)
    return tuple((_form_decoded(name), _form_decoded(value)) for name, _, value in pairs)


def _normal_path(path: bytes) -> str:
    decoded = _decoded(path)
    if _TWICE.search(decoded):
        raise MalformedError("a path that is encoded twice")
    if any(byte < 0x20 or byte == 0x7F for byte in decoded):
        raise MalformedError("a control byte in the path")
    if b"\\" in decoded:
        raise MalformedError("a backslash in the path")
    if decoded.count(b"/") != path.count(b"/"):
        raise MalformedError("an encoded slash in the path")
    _utf8(decoded, "the path")
    *segments, last = decoded.split(b"/")[1:]
    if b"" in segments:
        raise MalformedError("an empty segment in the path (//)")
    # Tomcat and its kin read /a/..;x/b as /b.
    if any(segment.partition(b";")[0] in (b".", b"..") for segment in (*segments, last)):
        raise MalformedError("a dot segment in the path")
    return _spelled(path, _PLAIN_IN_PATH, _AS_SENT_IN_PATH)


def _normal_query(query: bytes) -> str:
    if b"\x00" in _decoded(query):
        raise MalformedError("a NUL byte in the query")
    return _spelled(query, _UNRESERVED, _AS_SENT_IN_QUERY)


def _spelled(text: bytes, plain: frozenset[int], as_sent: frozenset[int]) -> str:
    """Rule 3: escapes of ``plain`` bytes are decoded, bytes that are not ``as_sent`` are encoded."""
    if as_sent.issuperset(text):  # Nearly always. `%` is in neither set.
        return text.decode()
    spelled: list[str] = []
    at = 0
    while at < len(text):
        byte = text[at]
        if byte == 0x25:
            byte = int(text[at + 1 : at + 3], 16)
            spelled.append(chr(byte) if byte in plain else f"%{byte:02X}")
            at += 3
        else:
            spelled.append(chr(byte) if byte in as_sent else f"%{byte:02X}")
            at += 1
    return "".join(spelled)


def _decoded(text: bytes) -> bytes:
    def byte(escape: re.Match[bytes]) -> bytes:
        if escape[1] is None:
            raise MalformedError("a % without two hexadecimal digits")
        return bytes.fromhex(escape[1].decode())

    return _ESCAPE.sub(byte, text)


def _form_decoded(part: str) -> str:
    return _utf8(_decoded(part.replace("+", " ").encode()), "the query")


def _utf8(text: bytes, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"{what} is not UTF-8") from None


def _check_host(fields: Fields, hosts: frozenset[str]) -> bytes:
    found = [value for name, value in fields if name == b"host"]
    if len(found) != 1:
        raise MalformedError("exactly one Host is needed")
    host = found[0].lower()
    if host.decode("latin-1") not in hosts:
        # DNS rebinding: a browser that was told that evil.example is 127.0.0.1 says whom it means.
        raise MalformedError("Host is neither the binding's address nor the service's host", status=421)
    return host


def _check_origin(fields: Fields, hosts: frozenset[str]) -> None:
    origins = [value.lower() for name, value in fields if name == b"origin"]
    for origin in origins:
        scheme, _, host = origin.partition(b"://")
        if scheme not in (b"http", b"https") or host.decode("latin-1") not in hosts:
            raise MalformedError("a foreign Origin", status=403)


def _check_names(fields: Fields) -> None:
    """No field under another spelling, or taken away, may change what the tool does with what was decided on."""
    for name, value in fields:
        plain = canonical(name)
        if plain in _OVERRIDES:
            raise MalformedError(f"{plain.decode()} would override what is decided on")
        if plain != name and _is_decided(plain):
            # CGI and its kin make one of them all: the tool would see the field twice, or one that was not checked.
            raise MalformedError(f"another spelling of {plain.decode()}")
        if name == b"connection" and any(_is_decided(one.strip().lower()) for one in value.split(b",")):
            raise MalformedError("Connection names a field that is decided on: it would be taken away")


def _is_decided(name: bytes) -> bool:
    return name in _DECIDED or name.startswith(b"mcp-")


_DECIDED = frozenset(
    {b"host", b"origin", b"content-length", b"content-type", b"content-encoding", b"authorization", b"expect"}
    | {b"connection", b"transfer-encoding", b"cookie", b"last-event-id", b"range", b"if-match"}
)
"""What a request means hangs on these, to us or to a tool, besides method and target."""
_OVERRIDES = frozenset(
    {
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-original-uri",
        b"x-rewrite-url",
        b"x-override-url",
    }
)


def _wants_websocket(method: bytes, fields: Fields) -> bool:
    """Whether this asks for a WebSocket (RFC 6455 section 4.1); raises MalformedError for any other upgrade."""
    upgrades = [value.lower() for name, value in fields if name == b"upgrade"]
    options = {
        part.strip().lower() for name, value in fields if name == b"connection" for part in value.split(b",")
    }
    if not upgrades and b"upgrade" not in options:
        return False
    if upgrades != [b"websocket"] or b"upgrade" not in options or method != b"GET":
        raise MalformedError("an upgrade to anything but WebSocket")
    framed = {b"content-length", b"transfer-encoding"} & {name for name, _ in fields}
    if framed:
        raise MalformedError("an upgrade with a body")
    return True
