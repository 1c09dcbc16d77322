"""Refusals in the shape that a model gets to see, and can act on. Pure.

Where a refusal goes is the specification's "Error handling" of tools, alike in 2025-11-25 and 2026-07-28: clients
SHOULD show *tool execution errors* to the model and MAY show it *protocol errors*. So:

    a tools/call that is decided against    a result with isError: the model reads why, and what would allow it
    any other request decided against       a JSON-RPC error; the code is HTTP's, outside the reserved range
    a message that cannot be read           HTTP 400 and a JSON-RPC error
    a notification or response              HTTP 403 or 400 and a JSON-RPC error without id: nothing answers these

What a program needs stands beside the words, in ``error.data`` or under :data:`META` in ``_meta``. It is not in
``structuredContent``: some clients check that against the tool's own output schema in errors, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType

from sidecar.http.refusal import json_answer, retry_after
from sidecar.http.seams import Answer, Refusal
from sidecar.mcp import json
from sidecar.mcp.methods import Era
from sidecar.policy.operation import TOOLS_CALL, Json
from sidecar.reasons import Reason

META = "internal.lockgate/refusal"

RequestId = int | str


class Code(IntEnum):
    """JSON-RPC error codes: its own, those of MCP 2026-07-28, and one outside the range that both reserve."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    HEADER_MISMATCH = -32020
    UNSUPPORTED_VERSION = -32022
    REFUSED = 403


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a message is not read. ``data`` is what the code's own definition asks for."""

    hint: str
    code: Code = Code.INVALID_REQUEST
    data: Mapping[str, Json] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Sender:
    """What is known of a message, however far it was read: enough to answer it."""

    method: str = ""
    id: RequestId | None = None
    era: Era = Era.SESSIONS


def answer(refusal: Refusal, sender: Sender, fault: Fault | None = None) -> Answer:
    """What the caller is told; ``fault`` where the message was not read."""
    code = fault.code if fault else Code.REFUSED
    if code is Code.REFUSED and sender.method == TOOLS_CALL and sender.id is not None:
        body: Json = {"jsonrpc": "2.0", "id": sender.id, "result": _tool_error(refusal)}
    else:
        data = {**facts(refusal), **(fault.data if fault else {})}
        error: Json = {"code": int(code), "message": words(refusal), "data": data}
        body = {"jsonrpc": "2.0", "id": sender.id, "error": error}
    # All but the body and its status is as for any HTTP request.
    return replace(json_answer(refusal), status=_status(code, sender), body=json.render(body))


def words(refusal: Refusal) -> str:
    """What happened, why, and what would allow it, in sentences."""
    rule = f" (rule {refusal.rule})" if refusal.rule else ""
    said = [f"Lockgate refused this: {refusal.reason}{rule}.", _sentence(refusal.hint)]
    if (waiting := retry_after(refusal)) is not None:
        said.append(f"Try again in {waiting} s.")
    said.append(REMEDIES.get(refusal.reason, ""))
    return " ".join(filter(None, said))


def facts(refusal: Refusal) -> dict[str, Json]:
    """The same for a program."""
    known: dict[str, Json] = {
        "reason": refusal.reason.value,
        "rule": refusal.rule,
        "hint": refusal.hint,
        "remedy": REMEDIES.get(refusal.reason, ""),
        "request": refusal.request,
    }
    if (waiting := retry_after(refusal)) is not None:
        known["retry_after"] = waiting
    return known


REMEDIES: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.NO_GRANT: "Only an operator can grant it; do not repeat the call unchanged.",
        Reason.DENIED: "A rule forbids it; do not repeat the call unchanged.",
        Reason.NARROWED: "This session was started with fewer rights; its parent session may do it.",
        Reason.TOOL_DRIFT: "List the tools; where a definition has changed, an operator must look at it and approve it.",
        Reason.LOCKED: "An operator has stopped this for now; wait until it is unlocked.",
        Reason.REVOKED: "This session is over; a new one must be started.",
        Reason.EXPIRED: "The session's certificate is over; a new session must be started.",
        Reason.STALE: "The tool's node waits for news of the CA; try again later.",
        Reason.LIMIT: "A limit is used up; call less often.",
        Reason.LEASE_ENDED: "The lease for this has ended; request a new one.",
        Reason.AUDIT_UNAVAILABLE: "The audit log cannot be written; an operator must see to it.",
        Reason.BAD_REQUEST: "Correct the message and send it again.",
        Reason.TARGET_UNREACHABLE: "The tool does not answer as it should; an operator must see to it.",
    }
)
"""What would allow it, by reason."""


def _tool_error(refusal: Refusal) -> Json:
    return {
        "resultType": "complete",  # Of 2026-07-28; earlier clients ignore it.
        "isError": True,
        "content": [{"type": "text", "text": words(refusal)}],
        "_meta": {META: facts(refusal)},
    }


def _status(code: Code, sender: Sender) -> int:
    answered = sender.id is not None
    if code is Code.REFUSED:
        return 200 if answered else 403
    if code is Code.METHOD_NOT_FOUND and answered:
        # With sessions a 404 says that the session is gone.
        return 404 if sender.era is Era.STATELESS else 200
    if code is Code.INVALID_PARAMS and answered and sender.era is Era.SESSIONS:
        return 200
    return 400


def _sentence(hint: str) -> str:
    said = hint[:1].upper() + hint[1:]
    return said if said.endswith((".", "!", "?")) or not said else f"{said}."
