import pytest

from sidecar.policy.asked import operation_of
from sidecar.policy.operation import HttpCall, McpCall, Operation
from tests.sidecar.policy.language import whole_policy_of

TEXT = """\
[services.wiki]
segment = "retrieval"
nodes = ["n"]
target = "h:1"
protocol = "http"
[[services.wiki.operations]]
methods = ["*"]
path = "/admin/**"
segment = "action"
[services.crm]
segment = "retrieval"
nodes = ["n"]
target = "h:2"
protocol = "mcp"
[services.db]
segment = "retrieval"
nodes = ["n"]
target = "h:3"
[agents.a]
nodes = ["n"]
uid = 1
[[grants]]
id = "g1"
agents = ["a"]
services = ["wiki"]
http = [{ methods = ["GET"], path = "/api/**", query = { limit = { max = 100 } } }]
[[grants]]
id = "g2"
agents = ["a"]
segments = ["action"]
http = [{ methods = ["GET"], path = "/**", query = { owner = { present = true } } }]
[[grants]]
id = "g3"
agents = ["a"]
services = ["crm"]
mcp = [{ tools = ["get_*"], arguments = { "$.amount" = { max = 10 } } }]
[[denies]]
id = "d1"
agents = ["a"]
services = ["wiki"]
http = [{ methods = ["*"], path = "/api/**", query = { limit = { min = 50 } } }]
[[denies]]
id = "d2"
agents = ["a"]
services = ["crm"]
mcp = [{ tools = ["put_*"], arguments = { "$.to.name" = { equals = "x" } } }]
"""
POLICY = whole_policy_of(TEXT)
EVERY, SOME = 'every query "limit" max 100', 'some query "limit" min 50'


@pytest.mark.parametrize(
    ("service", "call", "operation"),
    [
        ("wiki", HttpCall("GET", "/api/x"), Operation("GET", "/api/x")),
        ("wiki", HttpCall("GET", "/api/x", (("limit", "5"),)), Operation("GET", "/api/x", frozenset({EVERY}))),
        ("wiki", HttpCall("GET", "/api/x", (("limit", "60"),)), Operation("GET", "/api/x", frozenset({EVERY, SOME}))),
        ("wiki", HttpCall("PUT", "/api/x", (("limit", "60"),)), Operation("PUT", "/api/x", frozenset({SOME}))),
        ("wiki", HttpCall("GET", "/else", (("limit", "60"),)), Operation("GET", "/else")),
        ("wiki", HttpCall("GET", "/else", (("owner", "x"),)), Operation("GET", "/else")),
        (
            "wiki",
            HttpCall("GET", "/admin/x", (("owner", "x"),)),
            Operation("GET", "/admin/x", frozenset({'every query "owner" present'})),
        ),
        (
            "crm",
            McpCall("tools/call", "get_x", {"amount": 5}),
            Operation("tools/call", "get_x", frozenset({'every argument "$.amount" max 10'})),
        ),
        ("crm", McpCall("tools/call", "get_x", {"amount": 50}), Operation("tools/call", "get_x")),
        ("crm", McpCall("tools/call", "get_x", {"Amount": 5}), Operation("tools/call", "get_x")),
        ("crm", McpCall("tools/call", "get_x", {"amount": 5, "AMOUNT": 50}), Operation("tools/call", "get_x")),
        ("crm", McpCall("tools/call", "put_x", {"to": {"name": "y"}}), Operation("tools/call", "put_x")),
        (
            "crm",
            McpCall("tools/call", "put_x", {"to": {"Name": "y"}}),
            Operation("tools/call", "put_x", frozenset({'some argument "$.to.name" in ["x"]'})),
        ),
        (
            "crm",
            McpCall("tools/call", "put_x", {"TO": 1}),
            Operation("tools/call", "put_x", frozenset({'some argument "$.to.name" in ["x"]'})),
        ),
        ("crm", McpCall("tools/list"), Operation("tools/list", "")),
        ("crm", HttpCall("GET", "/"), Operation("GET", "/")),
        ("wiki", McpCall("tools/call", "get_x", {"amount": 5}), Operation("tools/call", "get_x")),
        ("db", HttpCall("GET", "/api/x", (("limit", "5"),)), Operation("GET", "/api/x")),
    ],
)  # fmt: skip
def test_an_operation_is_names_and_what_holds(
    service: str, call: HttpCall | McpCall, operation: Operation
) -> None:
    """Only conditions of rules that may be about the request are asked, in the segment that it is in.

    An argument under a name in another case fulfils every deny's and no grant's.
    """
    assert operation_of(call, POLICY.services[service], POLICY) == operation


def test_an_operation_holds_no_value() -> None:
    """It is recorded, and a query or argument may be a secret."""
    found = operation_of(
        HttpCall("GET", "/api/x", (("limit", "77"), ("token", "hunter2"))), POLICY.services["wiki"], POLICY
    )
    assert found.holds == {EVERY, SOME}
    assert "77" not in repr(found)
    assert "hunter2" not in repr(found)
