"""Whether the headers of a POST say what its body says (2026-07-28, Streamable HTTP, "Server Validation").

Something on the way may route or bill by Mcp-Method and Mcp-Name while the server acts on the body. Where they differ,
one of the two was deceived. In the older revisions the headers do not exist; where they are sent all the same, they
are held to the same rule.
"""

import base64
import binascii
import re

from sidecar.http.seams import Fields
from sidecar.mcp.methods import METHODS, VERSIONS, About, Era
from sidecar.mcp.refusal import Code, Fault
from sidecar.policy.operation import Json

VERSION = b"mcp-protocol-version"
METHOD = b"mcp-method"
NAME = b"mcp-name"
SESSION = b"mcp-session-id"

META_VERSION = "io.modelcontextprotocol/protocolVersion"

_SINGLE = (b"content-type", b"last-event-id")
_NAMED = ("tools/call", "prompts/get", "resources/read")
"""Methods whose requests must have Mcp-Name."""
_SENTINEL = re.compile(r"=\?base64\?(.*)\?=")
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,256}")


def one(fields: Fields, name: bytes) -> str | None:
    """The value of a header that :func:`check_head` has seen to be there at most once."""
    return next((value.decode("latin-1") for known, value in fields if known == name), None)


def check_head(fields: Fields) -> Fault | None:
    """What can be said before the body is there."""
    names = [name for name, _ in fields if name.startswith(b"mcp-") or name in _SINGLE]
    if len(set(names)) != len(names):
        # One reader takes the first, another the last.
        return Fault("a header of MCP more than once", Code.HEADER_MISMATCH)
    session = one(fields, SESSION)
    if session is not None and not _SESSION_ID.fullmatch(session):
        return Fault("Mcp-Session-Id: not 1 to 256 visible ASCII characters")
    version = one(fields, VERSION)
    if version is not None and version not in VERSIONS:
        data: dict[str, Json] = {"supported": list(VERSIONS), "requested": version[:64]}
        hint = f"MCP-Protocol-Version: not one of {', '.join(VERSIONS)}"
        return Fault(hint, Code.UNSUPPORTED_VERSION, data)
    return None


def check_body_type(fields: Fields) -> Fault | None:
    """A body in another type or coding is read by nobody, or by everybody in his own way."""
    media, _, parameters = (one(fields, b"content-type") or "").partition(";")
    if media.strip().lower() != "application/json":
        return Fault("Content-Type: not application/json")
    if parameters.strip().lower() not in ("", "charset=utf-8", 'charset="utf-8"'):
        return Fault("Content-Type: its parameters are not charset=utf-8")
    if any(name == b"content-encoding" for name, _ in fields):
        return Fault("Content-Encoding: a compressed message is not read")
    return None


def era_of(fields: Fields) -> Era:
    """Of a known version; without one, what the older revisions say: 2025-03-26."""
    return VERSIONS[one(fields, VERSION) or "2025-03-26"]


def disagreement(fields: Fields, method: str, params: dict[str, Json], *, request: bool) -> Fault | None:
    """What the headers say otherwise than the body; None: they agree."""
    required = request and era_of(fields) is Era.STATELESS
    checks = (
        _version(fields, params, required=required),
        _compare(METHOD, one(fields, METHOD), method, required=required),
        _name(fields, method, params, required=required and method in _NAMED),
    )
    return next((found for found in checks if found), None)


def decode(value: str) -> str | None:
    """A header's value, out of its Base64 where it is wrapped; None when the wrapping is broken."""
    wrapped = _SENTINEL.fullmatch(value)
    if wrapped is None:
        return value
    try:
        plain = base64.b64decode(wrapped[1], validate=True)
        # Spare bits at the end would give one value several spellings.
        return plain.decode() if base64.b64encode(plain).decode() == wrapped[1] else None
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def _version(fields: Fields, params: dict[str, Json], *, required: bool) -> Fault | None:
    meta = params.get("_meta")
    claimed = meta.get(META_VERSION) if isinstance(meta, dict) else None
    if claimed is None and not required:
        return None
    if claimed != one(fields, VERSION):
        return _mismatch(VERSION)
    return None


def _compare(header: bytes, value: str | None, body: str, *, required: bool) -> Fault | None:
    if value is None:
        return (
            Fault(f"{_spelled(header)}: missing; this version requires it", Code.HEADER_MISMATCH)
            if required
            else None
        )
    return None if value == body else _mismatch(header)


def _name(fields: Fields, method: str, params: dict[str, Json], *, required: bool) -> Fault | None:
    value = one(fields, NAME)
    if value is None:
        return _compare(NAME, None, "", required=required)
    known = METHODS.get(method)
    key = known.about.value if known and known.about in (About.NAME, About.URI) else None
    body = params.get(key) if key else None
    plain = decode(value)
    return None if plain is not None and plain == body else _mismatch(NAME)


def _mismatch(header: bytes) -> Fault:
    return Fault(f"{_spelled(header)}: does not say what the body says", Code.HEADER_MISMATCH)


def _spelled(header: bytes) -> str:
    return header.decode().title()
