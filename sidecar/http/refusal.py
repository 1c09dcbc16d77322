"""What an agent is told of a request that was refused: JSON that says why, and what may help. Pure."""

import json

from sidecar.http.seams import Answer, Refusal
from sidecar.reasons import Reason

SCHEMA_VERSION = 1

FORBIDDEN = 403
BAD_REQUEST = 400
BAD_GATEWAY = 502
UNAVAILABLE = 503

_STATUS = {
    Reason.BAD_REQUEST: BAD_REQUEST,
    Reason.TARGET_UNREACHABLE: BAD_GATEWAY,
    Reason.PEER_UNREACHABLE: BAD_GATEWAY,
    Reason.LIMIT: UNAVAILABLE,
    Reason.AUDIT_UNAVAILABLE: UNAVAILABLE,
    Reason.DRAINING: UNAVAILABLE,
}
_RETRY_AFTER = {
    Reason.LIMIT: 1,
    Reason.STALE: 5,
    Reason.AUDIT_UNAVAILABLE: 5,
    Reason.DRAINING: 1,
    Reason.PEER_UNREACHABLE: 1,
    Reason.TARGET_UNREACHABLE: 1,
}
"""Seconds, where nothing better is known. A refusal by rule does not go away by waiting."""


def json_answer(refusal: Refusal) -> Answer:
    """The answer of the http dialect, and of whatever could not be read."""
    waiting = retry_after(refusal)
    said: dict[str, str | int] = {
        "schema_version": SCHEMA_VERSION,
        "reason": refusal.reason,
        "rule": refusal.rule,
        "hint": refusal.hint,
        "request": refusal.request,
    }
    fields = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]
    if waiting is not None:
        said["retry_after"] = waiting
        fields.append((b"Retry-After", b"%d" % waiting))
    if refusal.request:
        fields.append((b"Lockgate-Request", refusal.request.encode()))
    body = json.dumps(said).encode() + b"\n"
    return Answer(status_of(refusal), tuple(fields), body)


def status_of(refusal: Refusal) -> int:
    """The HTTP status of a refusal."""
    return refusal.status or _STATUS.get(refusal.reason, FORBIDDEN)


def retry_after(refusal: Refusal) -> int | None:
    """Seconds after which the same request may be answered otherwise; None: waiting alone does not help."""
    return refusal.retry_after if refusal.retry_after is not None else _RETRY_AFTER.get(refusal.reason)


def raw(answer: Answer) -> bytes:
    """The answer as bytes, for a stream whose requests nobody reads; the connection ends with it."""
    fields = (*answer.fields, (b"Content-Length", b"%d" % len(answer.body)), (b"Connection", b"close"))
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    return b"HTTP/1.1 %d Refused\r\n%b\r\n%b" % (answer.status, head, answer.body)
