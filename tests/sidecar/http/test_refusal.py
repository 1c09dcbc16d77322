import json

import pytest

from sidecar.http import refusal
from sidecar.http.seams import Refusal
from sidecar.reasons import Reason


@pytest.mark.parametrize(
    ("reason", "status", "waits"),
    [
        (Reason.NO_GRANT, 403, None),
        (Reason.DENIED, 403, None),
        (Reason.LOCKED, 403, None),
        (Reason.STALE, 403, 5),
        (Reason.BAD_REQUEST, 400, None),
        (Reason.TARGET_UNREACHABLE, 502, 1),
        (Reason.LIMIT, 503, 1),
        (Reason.AUDIT_UNAVAILABLE, 503, 5),
        (Reason.DRAINING, 503, 1),
    ],
)
def test_a_status_says_whose_move_it_is(reason: Reason, status: int, waits: int | None) -> None:
    """Retry-After only where waiting may help."""
    answer = refusal.json_answer(Refusal("r" * 26, reason, "a-rule", "what to do"))
    assert answer.status == status
    said = json.loads(answer.body)
    assert said.pop("retry_after", None) == waits
    assert said == {
        "schema_version": 1,
        "reason": reason,
        "rule": "a-rule",
        "hint": "what to do",
        "request": "r" * 26,
    }
    assert dict(answer.fields).get(b"Retry-After") == (None if waits is None else b"%d" % waits)
    assert (b"Lockgate-Request", b"r" * 26) in answer.fields


def test_what_is_known_better_goes_first() -> None:
    """The status of a malformed request, and when a quota has room."""
    one = Refusal("", Reason.LIMIT, retry_after=42, status=431)
    assert refusal.status_of(one) == 431
    assert refusal.retry_after(one) == 42


def test_a_stream_that_nobody_reads_gets_whole_bytes() -> None:
    """A response that ends the connection, and needs no request's id."""
    said = refusal.raw(refusal.json_answer(Refusal("", Reason.NO_GRANT, hint="caf\u00e9 \r\nX: y")))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 Refused\r\n")
    assert b"Connection: close" in head
    assert b"X: y" not in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["hint"] == "caf\u00e9 \r\nX: y"
