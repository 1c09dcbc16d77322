"""The kinds of value that the policy file's fields have."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pki.errors import LocalError
from sidecar.address import Address
from sidecar.defaults import KIB, MIB
from sidecar.policy.patterns import NamePattern, PathPattern
from sidecar.policy.predicates import JsonPath
from sidecar.policy.tables.defined import known, rule_id
from sidecar.policy.target import (
    MAX_UNIX_PATH_BYTES,
    TLS,
    UNIX,
    Target,
    TcpTarget,
    TlsTarget,
    UnixTarget,
    is_unix_path,
)
from sidecar.toml import Name, NameSchema, NotStrict, fault, quoted

MAX_PORT = 65_535

MAX_UID = 2**32 - 2
"""The last uid is no user's: it means "leave as it is" (chown(2))."""

_USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": KIB * MIB, "TiB": MIB * MIB}
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}|\*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENDPOINT = re.compile(r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}/?){0,8}")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def target_of(value: object) -> Target:
    """A target as far as its own text says; ``ca`` and ``server-name`` of a TLS target stand beside it."""
    if not isinstance(value, str):
        raise fault('must be a string "host:port", "unix:/path" or "tls://host:port"')
    if value.startswith(UNIX):
        path = value.removeprefix(UNIX)
        if not is_unix_path(path):
            raise fault(f"{quoted(value)} is not an absolute path of at most {MAX_UNIX_PATH_BYTES} bytes")
        return UnixTarget(path)
    try:
        address = Address.parse(value.removeprefix(TLS))
    except LocalError as error:
        raise fault(f"{quoted(value)} is {error}") from None
    return TlsTarget(address, "", address.host) if value.startswith(TLS) else TcpTarget(address)


def _uid(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= MAX_UID:
            raise fault(f"must be from 0 to {MAX_UID}")
    elif not isinstance(value, str) or _USER_NAME.fullmatch(value) is None:
        raise fault("must be a number, or a user name in quotes")
    return value


def _listen(value: object) -> int | str:
    """A port, or the path of a Unix socket."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_PORT:
            raise fault(f"must be from 1 to {MAX_PORT}")
        return value
    path = value.removeprefix(UNIX) if isinstance(value, str) and value.startswith(UNIX) else ""
    if not is_unix_path(path):
        raise fault('must be a port, or "unix:/path" of a socket')
    return path


def _file(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise fault("must be an absolute path")
    return value


def _credential(value: str) -> str:
    """An absolute path, or the name of a systemd credential, which is a file's name."""
    if value.startswith("/"):
        return _file(value)
    if not value or "/" in value or "\0" in value or value in (".", ".."):
        raise fault("must be an absolute path, or the name of a systemd credential")
    return value


def _expires(value: object) -> object:
    """A date is its first instant, UTC; so is a time without offset."""
    if not isinstance(value, date):
        raise fault("must be a date such as 2027-01-01, without quotes")
    moment = (
        value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    )
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _size(value: object) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise fault('must be a size such as "64KiB", "10MiB" or "1GiB"')
    return int(match[1]) * _UNITS[match[2]]


def _shaped(shape: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if shape.fullmatch(value) is None:
            raise fault(f"{quoted(value)} is not {what}")
        return value

    return AfterValidator(check)


def _parsed(parse: Callable[[str], object]) -> BeforeValidator:
    """A pattern from its text."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise fault("must be a string")
        try:
            return parse(value)
        except LocalError as error:
            raise fault(f"{quoted(value)} is {error}") from None

    return BeforeValidator(check, json_schema_input_type=str)


def _json_path(value: str) -> str:
    try:
        return JsonPath.parse(value).text
    except LocalError as error:
        raise fault(f"{quoted(value)} is {error}") from None


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is written down to match nothing is a mistake."""
    if not values:
        raise fault("an empty list matches nothing", "name something, or remove the key")
    return values


NotEmpty = AfterValidator(_some)

Names = Annotated[tuple[Name, ...], NotStrict]
Listen = Annotated[int | str, BeforeValidator(_listen, json_schema_input_type=int | str)]
Uid = Annotated[int | str, BeforeValidator(_uid, json_schema_input_type=int | str)]
Expires = Annotated[int, BeforeValidator(_expires, json_schema_input_type=date | datetime)]
"""Integer microseconds since 1970 (Wall)."""
File = Annotated[str, AfterValidator(_file)]
Credential = Annotated[str, AfterValidator(_credential)]
Note = Annotated[str, Field(max_length=200)]
Host = Annotated[str, _shaped(_HOST, "a host name in lower case, perhaps with :port")]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str)]
Method = Annotated[str, _shaped(_METHOD, 'an HTTP method such as "GET", or "*"')]
HeaderName = Annotated[str, _shaped(_TOKEN, "the name of a header (RFC 9110, section 5.1)")]
Endpoint = Annotated[str, _shaped(_ENDPOINT, 'a path such as "/mcp", without anything to encode')]
Digest = Annotated[str, _shaped(_DIGEST, "a SHA-256: 64 of 0-9, a-f")]

Path = Annotated[PathPattern, _parsed(PathPattern.parse)]
NamePatterns = Annotated[tuple[Annotated[NamePattern, _parsed(NamePattern.name)], ...], NotStrict, NotEmpty]
UriPatterns = Annotated[tuple[Annotated[NamePattern, _parsed(NamePattern.uri)], ...], NotStrict, NotEmpty]
Methods = Annotated[tuple[Method, ...], NotStrict, NotEmpty]
Argument = Annotated[str, AfterValidator(_json_path)]

AgentName = Annotated[str, known("agent"), NameSchema]
ServiceName = Annotated[str, known("service"), NameSchema]
SegmentName = Annotated[str, known("segment"), NameSchema]
RuleId = Annotated[Name, AfterValidator(rule_id)]
