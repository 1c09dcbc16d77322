"""One JSON-RPC message of a client: what it asks for, or why it is refused.

    bytes -> JSON with one reading -> one message, no batch -> headers agree -> a known method -> what it is about

A server reads the same message with a library of its own. Members that JSON-RPC and MCP do not know are refused in the
envelope, and known names in another case everywhere they count: Go's decoder takes ``"Params"`` for ``"params"``.
What the message is about becomes zero or more calls; it may pass when all of them are allowed.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from pki.errors import RemoteError
from sidecar.http.seams import Fields
from sidecar.mcp import headers as head
from sidecar.mcp import json
from sidecar.mcp.methods import (
    METHODS,
    PROMPTS_GET,
    RESOURCES_READ,
    RESOURCES_SUBSCRIBE,
    About,
    Era,
    Method,
)
from sidecar.mcp.refusal import Code, Fault, RequestId, Sender
from sidecar.policy.operation import Json, McpCall
from sidecar.policy.patterns import is_normal_uri

MAX_NAME_CHARS = 256
MAX_ID_CHARS = 256
MAX_URI_CHARS = 2_048
MAX_SUBSCRIPTIONS = 100
MAX_SUBSCRIBED_CHARS = 16_384
"""Of all URIs of one filter: each stands in the record."""

_REQUEST = frozenset({"jsonrpc", "id", "method", "params"})
_RESPONSE = frozenset({"jsonrpc", "id", "result", "error"})
_PARAMS = frozenset(
    {"_meta", "name", "arguments", "uri", "ref", "argument", "context", "cursor", "task", "notifications"}
    | {"inputResponses", "requestState"}
)
_FILTER = frozenset(
    {"toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions"}
)

_EXPRESSION = re.compile(r"\{[^{}]*\}")
"""Of a URI template (RFC 6570)."""


class Kind(StrEnum):
    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"
    """To a request of the server."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that may be judged. ``calls`` are what it is about; without any it is free.

    ``forwarded`` are the bytes that go on: the spelling of what was read, not the caller's.
    """

    kind: Kind
    sender: Sender
    forwarded: bytes = field(repr=False)
    calls: tuple[McpCall, ...] = ()

    @property
    def listed(self) -> str:
        """The key of what its answer lists; empty where it lists nothing."""
        return METHODS[self.sender.method].listed if self.kind is Kind.REQUEST else ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A message that is not judged at all, and how much of it was read."""

    fault: Fault
    sender: Sender


def read(data: bytes, fields: Fields) -> Message | Unread:
    """The message in ``data``. Never raises."""
    era = Era.SESSIONS
    fault = head.check_head(fields)
    if fault is None:
        era = head.era_of(fields)
        fault = head.check_body_type(fields)
    if fault is not None:
        return Unread(fault, Sender(era=era))
    try:
        value = json.parse(data)
    except RemoteError as error:
        return Unread(Fault(str(error), Code.PARSE_ERROR), Sender(era=era))
    if isinstance(value, list):
        return Unread(Fault("a batch; send each message by itself"), Sender(era=era))
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return Unread(Fault("not a JSON-RPC 2.0 message"), Sender(era=era))
    if "method" in value:
        return _call(value, fields, era)
    return _response(value, era)


def widest(template: str) -> str:
    """What stands for all that a URI template can become: ``*`` for each expression, which only a wildcard allows."""
    return _EXPRESSION.sub("*", template)


def _response(body: dict[str, Json], era: Era) -> Message | Unread:
    number = _id(body.get("id"))
    given = [body[key] for key in ("result", "error") if key in body]
    if not body.keys() <= _RESPONSE or number is None or len(given) != 1 or not isinstance(given[0], dict):
        return Unread(Fault("neither a request, nor a notification, nor a response"), Sender(era=era))
    if era is Era.STATELESS:
        return Unread(Fault("a response; clients of this version send none"), Sender(era=era))
    return Message(Kind.RESPONSE, Sender(era=era), json.render(body))


def _call(body: dict[str, Json], fields: Fields, era: Era) -> Message | Unread:
    """A request or a notification."""
    method, params, number = body["method"], body.get("params", {}), _id(body.get("id"))
    sender = Sender(method if isinstance(method, str) and method in METHODS else "", number, era)
    request = "id" in body
    if not body.keys() <= _REQUEST:
        return Unread(Fault("members beside jsonrpc, id, method and params"), sender)
    if request and number is None:
        return Unread(Fault(f"id: not an integer or a string of at most {MAX_ID_CHARS} characters"), sender)
    if not isinstance(method, str) or not isinstance(params, dict):
        return Unread(Fault("method is no string, or params no object"), sender)
    fault = head.disagreement(fields, method, params, request=request)
    fault = fault or _not_known(method, era, request=request) or _disguised(params)
    if fault is not None:
        return Unread(fault, sender)
    try:
        calls = _calls(method, METHODS[method], params)
    except RemoteError as error:
        return Unread(Fault(str(error), Code.INVALID_PARAMS), sender)
    return Message(Kind.REQUEST if request else Kind.NOTIFICATION, sender, json.render(body), calls)


def _id(value: Json) -> RequestId | None:
    if isinstance(value, str):
        return value if len(value) <= MAX_ID_CHARS else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _not_known(method: str, era: Era, *, request: bool) -> Fault | None:
    known = METHODS.get(method)
    if known is None or era not in known.eras or known.notification is request:
        kind = "request" if request else "notification"
        return Fault(f"no {kind} of this protocol version that may pass", Code.METHOD_NOT_FOUND)
    return None


def _disguised(params: dict[str, Json]) -> Fault | None:
    if any(key.casefold() in _FOLDED for key in params.keys() - _PARAMS):
        return Fault("params: a known name in another case")
    return None


_FOLDED = {key.casefold() for key in _PARAMS}


def _calls(method: str, known: Method, params: dict[str, Json]) -> tuple[McpCall, ...]:
    match known.about:
        case About.NOTHING:
            return ()
        case About.NAME:
            if "task" in params:
                raise RemoteError("params: tasks are not supported; call without task")
            arguments = _arguments(params)
            digest = json.digest(arguments) if arguments else ""
            return (McpCall(method, _name(params.get("name")), arguments, digest),)
        case About.URI:
            return (McpCall(method, _uri(params.get("uri"))),)
        case About.REFERENCE:
            return (_reference(params.get("ref")),)
        case About.FILTER:  # pragma: no branch - the last
            return _subscriptions(params.get("notifications"))


def _name(value: Json) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        raise RemoteError(f"params: name is not a string of 1 to {MAX_NAME_CHARS} characters")
    if not value.isprintable() or value != value.strip():
        raise RemoteError("params: name holds characters that do not show")
    return value


def _arguments(params: dict[str, Json]) -> dict[str, Json]:
    arguments = params.get("arguments")
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise RemoteError("params: arguments is no object")
    return arguments


def _uri(value: Json, *, template: bool = False) -> str:
    if not isinstance(value, str):
        raise RemoteError("params: a URI that is no string")
    plain = widest(value) if template else value
    if len(plain) > MAX_URI_CHARS or not is_normal_uri(plain):
        raise RemoteError(
            "params: a URI that is too long, or not in its normal form (RFC 3986, section 6.2.2)"
        )
    return plain


def _reference(value: Json) -> McpCall:
    """Whoever may get a prompt, or read what a template names, may have its arguments completed."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(value, dict) and kind == "ref/prompt":
        return McpCall(PROMPTS_GET, _name(value.get("name")))
    if isinstance(value, dict) and kind == "ref/resource":
        return McpCall(RESOURCES_READ, _uri(value.get("uri"), template=True))
    raise RemoteError("params: ref is neither a prompt's nor a resource's")


def _subscriptions(value: Json) -> tuple[McpCall, ...]:
    uris = value.get("resourceSubscriptions") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not value.keys() <= _FILTER or not isinstance(uris, list | None):
        raise RemoteError("params: notifications is no subscription filter")
    if len(uris or []) > MAX_SUBSCRIPTIONS:
        raise RemoteError(f"params: over {MAX_SUBSCRIPTIONS} subscriptions")
    calls = tuple(McpCall(RESOURCES_SUBSCRIBE, _uri(one)) for one in uris or [])
    if sum(len(call.name) for call in calls) > MAX_SUBSCRIBED_CHARS:
        raise RemoteError(f"params: URIs of over {MAX_SUBSCRIBED_CHARS} characters together")
    return calls
