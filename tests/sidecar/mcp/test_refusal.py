import json
from typing import Any

import pytest

from sidecar.http.seams import Refusal
from sidecar.mcp.methods import Era
from sidecar.mcp.refusal import META, REMEDIES, Code, Fault, Sender, answer, words
from sidecar.reasons import Reason

NO_GRANT = Refusal("r1", Reason.NO_GRANT, "only-reads", "no grant lets agent a call put")
UNREAD = Refusal("r1", Reason.BAD_REQUEST)
CALL = Sender("tools/call", 7)


def body(refusal: Refusal, sender: Sender, fault: Fault | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer(refusal, sender, fault).body)
    return found


def test_a_refused_tool_call_is_an_error_of_the_tool() -> None:
    """The one kind of error that clients show to the model; a program reads the same in _meta."""
    said = body(NO_GRANT, CALL)
    assert said["id"] == 7
    assert said["result"]["isError"] is True
    [content] = said["result"]["content"]
    assert content["type"] == "text"
    assert content["text"] == (
        "Lockgate refused this: no_grant (rule only-reads). No grant lets agent a call put. "
        "Only an operator can grant it; do not repeat the call unchanged."
    )
    facts = said["result"]["_meta"][META]
    assert (facts["reason"], facts["rule"], facts["hint"]) == ("no_grant", "only-reads", NO_GRANT.hint)
    assert answer(NO_GRANT, CALL).status == 200


def test_any_other_refused_request_is_a_json_rpc_error() -> None:
    """Outside the codes that JSON-RPC and MCP reserve."""
    said = body(NO_GRANT, Sender("resources/read", "x"))
    assert said["id"] == "x"
    assert said["error"]["code"] == 403
    assert said["error"]["data"]["reason"] == "no_grant"
    assert "no_grant" in said["error"]["message"]


def test_what_is_never_answered_is_refused_by_status() -> None:
    """A notification or a response has no id that a JSON-RPC error could carry."""
    found = answer(NO_GRANT, Sender("notifications/cancelled"))
    assert found.status == 403
    assert json.loads(found.body)["id"] is None


@pytest.mark.parametrize(
    ("code", "sender", "status"),
    [
        (Code.PARSE_ERROR, Sender(), 400),
        (Code.INVALID_REQUEST, CALL, 400),
        (Code.HEADER_MISMATCH, CALL, 400),
        (Code.UNSUPPORTED_VERSION, CALL, 400),
        (Code.METHOD_NOT_FOUND, Sender("", 1, Era.STATELESS), 404),
        (Code.METHOD_NOT_FOUND, Sender("", 1, Era.SESSIONS), 200),
        (Code.METHOD_NOT_FOUND, Sender("", None, Era.STATELESS), 400),
        (Code.INVALID_PARAMS, Sender("tools/call", 1, Era.STATELESS), 400),
        (Code.INVALID_PARAMS, Sender("tools/call", 1, Era.SESSIONS), 200),
    ],
)
def test_what_cannot_be_read_is_an_error_of_the_protocol(code: Code, sender: Sender, status: int) -> None:
    """With the status that each version gives it; a 404 would end a session of 2025-11-25."""
    fault = Fault("nonsense", code, {"supported": ["x"]})
    assert answer(UNREAD, sender, fault).status == status
    error = body(UNREAD, sender, fault)["error"]
    assert error["code"] == code
    assert error["data"]["supported"] == ["x"]


def test_whoever_may_try_again_is_told_when() -> None:
    """In words, in data, and in the header."""
    refusal = Refusal("r1", Reason.LIMIT, hint="60 a minute", retry_after=12)
    found = answer(refusal, CALL)
    assert (b"Retry-After", b"12") in found.fields
    assert "Try again in 12 s." in words(refusal)
    assert json.loads(found.body)["result"]["_meta"][META]["retry_after"] == 12


def test_words_end_where_they_end() -> None:
    """No empty sentence, no doubled stop."""
    assert words(Refusal("", Reason.IDLE)) == "Lockgate refused this: idle."
    assert "Stop. " in words(Refusal("", Reason.LOCKED, hint="stop."))


@pytest.mark.parametrize("reason", [Reason.NO_GRANT, Reason.DENIED, Reason.TOOL_DRIFT, Reason.LIMIT])
def test_a_refusal_by_rule_says_what_would_allow_it(reason: Reason) -> None:
    """A model that does not know it tries again and again."""
    assert REMEDIES[reason]
