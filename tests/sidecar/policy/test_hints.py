from dataclasses import replace

import pytest

from pki.clock import SECOND, Wall
from sidecar.policy.asked import operation_of
from sidecar.policy.decide import MAX_HINT_CHARS, Decision, decide
from sidecar.policy.operation import HttpCall, McpCall
from tests.sidecar.policy.language import whole_policy_of
from tests.sidecar.policy.world import NOW, fresh, request, snapshot

TEXT = """\
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "h:1"
protocol = "http"

[services.crm]
segment = "action"
nodes = ["tools-1"]
target = "h:2"
protocol = "mcp"

[agents.researcher]
nodes = ["agents-1"]
uid = 1

[agents.clerk]
nodes = ["agents-1"]
uid = 2

[[grants]]
id = "read-wiki"
agents = ["researcher"]
services = ["wiki"]
http = [{ methods = ["GET"], path = "/api/**" }, { methods = ["GET"], path = "/s", query = { limit = { max = 100 } } }]

[[grants]]
id = "get-tools"
agents = ["researcher"]
services = ["crm"]
mcp = [{ tools = ["get_*"], arguments = { "$.amount" = { max = 10 } } }, { prompts = ["x"] }]

[[grants]]
id = "secret-grant"
agents = ["clerk"]
services = ["wiki", "crm"]

[[denies]]
id = "no-export"
agents = ["researcher"]
services = ["wiki"]
http = [{ methods = ["POST"], path = "/x" }, { methods = ["*"], path = "/api/export/**" }]

[[escalations]]
id = "write"
agents = ["researcher"]
from = "retrieval"
to = "action"
services = ["crm"]
max-ttl = "15m"
"""
MESH = whole_policy_of(TEXT)


def asked(service: str, call: HttpCall | McpCall, text: str = TEXT, at: int = NOW) -> Decision:
    policy = whole_policy_of(text)
    operation = operation_of(call, policy.services[service], policy)
    return decide(replace(request(service), operation=operation), snapshot(policy), fresh(at))


def test_a_refusal_says_what_would_be_allowed() -> None:
    """The agent's own grant that is nearest: what it can do instead."""
    assert asked("wiki", HttpCall("DELETE", "/api/x")).hint == (
        "no grant lets agent researcher DELETE /api/x of wiki; grant read-wiki allows GET /api/** of wiki"
    )


def test_a_refusal_says_which_condition_is_missing() -> None:
    """The pattern that the request comes near to is the one that is told."""
    said = asked("wiki", HttpCall("GET", "/s", (("limit", "500"),))).hint
    assert said.endswith("grant read-wiki allows GET /s where limit max 100 of wiki")
    said = asked("crm", McpCall("tools/call", "get_page", {"amount": 11})).hint
    assert "grant get-tools allows tools get_* where $.amount max 10 of crm" in said


def test_a_refusal_names_what_can_be_asked_for() -> None:
    """An escalation that would cover it, and for how long."""
    said = asked("crm", McpCall("tools/call", "delete_page")).hint
    assert said.endswith("escalation write can be requested for up to 900 s")


def test_a_deny_says_what_it_refuses() -> None:
    """The pattern of its that is meant; a whole deny keeps the two apart."""
    decision = asked("wiki", HttpCall("GET", "/api/export/all"))
    assert (decision.rule, decision.line) == ("no-export", 38)
    assert decision.hint == "deny no-export refuses agent researcher * /api/export/** of wiki"


def test_a_hint_tells_no_rule_of_another_agent() -> None:
    """An agent that asks for everything learns its own rules and nothing else."""
    for call in (HttpCall("GET", "/"), HttpCall("PUT", "/api/x"), HttpCall("GET", "/nothing")):
        said = asked("wiki", call)
        assert "secret" not in said.hint + said.rule
        assert "clerk" not in said.hint


def test_a_grant_that_has_ended_is_no_hint() -> None:
    """It would send the agent into the next refusal."""
    text = TEXT.replace('id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-12T13:46:41Z')
    assert "read-wiki" in asked("wiki", HttpCall("PUT", "/"), text).hint
    assert "read-wiki" not in asked("wiki", HttpCall("PUT", "/"), text, NOW + 2 * SECOND).hint


@pytest.mark.parametrize("path", ["/" + "x" * 5_000, "/\x1b[2J\n", "/\u202e"])
def test_a_request_in_a_hint_is_short_and_harmless(path: str) -> None:
    """Hints reach terminals and logs: nothing of the request's own gets through that could steer either."""
    said = asked("wiki", HttpCall("PUT" * 100, path)).hint
    assert said.isascii()
    assert said.isprintable()
    assert len(said) <= MAX_HINT_CHARS
    assert "read-wiki" in said


def test_a_hint_ends_with_the_grant_that_it_speaks_of() -> None:
    """Its expiry is a boundary of the refusal, so a cached one never offers what is over."""
    from sidecar.policy.decide import decide_until

    text = TEXT.replace('id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-12T13:46:41Z')
    policy = whole_policy_of(text)
    operation = operation_of(HttpCall("PUT", "/"), policy.services["wiki"], policy)
    asked = replace(request(), operation=operation)
    for not_after, ends in ((asked.not_after, NOW + SECOND), (NOW + 1, NOW + 1)):
        _, horizon = decide_until(replace(asked, not_after=Wall(not_after)), snapshot(policy), fresh())
        assert horizon.now == ends
