import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.mcp.message import Kind, Message, Unread, read
from sidecar.mcp.methods import METHODS
from sidecar.mcp.refusal import Code
from sidecar.policy.operation import McpCall
from tests.sidecar.mcp.hostile import FAULTS
from tests.sidecar.mcp.messages import (
    call,
    fields,
    meta,
    notification,
    request,
    stateless,
)


def message(data: bytes, **more: str) -> Message:
    found = read(data, fields(**more))
    assert isinstance(found, Message), found
    return found


def unread(data: bytes, **more: str) -> Unread:
    found = read(data, fields(**more))
    assert isinstance(found, Unread), found
    return found


@pytest.mark.parametrize(
    ("data", "calls"),
    [
        (call("get_page", name="x"), [McpCall("tools/call", "get_page", {"name": "x"})]),
        (request("tools/call", {"name": "now"}), [McpCall("tools/call", "now")]),
        (request("tools/call", {"name": "now", "arguments": None}), [McpCall("tools/call", "now")]),
        (request("prompts/get", {"name": "Code review"}), [McpCall("prompts/get", "Code review")]),
        (request("resources/read", {"uri": "docs://a/b"}), [McpCall("resources/read", "docs://a/b")]),
        (request("resources/subscribe", {"uri": "docs://a"}), [McpCall("resources/subscribe", "docs://a")]),
        (
            request("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}),
            [McpCall("prompts/get", "p")],
        ),
        (
            request("completion/complete", {"ref": {"type": "ref/resource", "uri": "docs://{+id}/x"}}),
            [McpCall("resources/read", "docs://*/x")],
        ),
        (request("tools/list"), []),
        (request("initialize", {"protocolVersion": "2025-11-25"}), []),
        (request("ping", id="a string"), []),
        (notification("notifications/initialized"), []),
    ],
)
def test_a_message_is_about_what_its_params_name(data: bytes, calls: list[McpCall]) -> None:
    """What has no name is free; a completion is about what it completes."""
    assert list(message(data).calls) == calls


def test_a_subscription_is_about_every_uri_in_it() -> None:
    """One that is refused refuses the whole."""
    uris = ["docs://a", "docs://b"]
    params = meta({"notifications": {"toolsListChanged": True, "resourceSubscriptions": uris}})
    found = read(request("subscriptions/listen", params), stateless("subscriptions/listen"))
    assert isinstance(found, Message)
    assert list(found.calls) == [McpCall("resources/subscribe", uri) for uri in uris]


@pytest.mark.parametrize("given", [{"result": {}}, {"error": {"code": 1, "message": "no"}}])
def test_a_response_to_the_server_passes_where_servers_ask(given: dict[str, Any]) -> None:
    """With sessions servers ask, without them they do not."""
    body = json.dumps({"jsonrpc": "2.0", "id": 7, **given}).encode()
    assert message(body).kind is Kind.RESPONSE
    assert message(body).listed == ""
    found = read(body, stateless(""))
    assert isinstance(found, Unread)
    assert "clients of this version send none" in found.fault.hint


def test_what_is_forwarded_is_what_was_read_in_our_spelling() -> None:
    """Escapes and spacing of the caller end here."""
    data = b'{"jsonrpc" : "2.0", "id":1, "\\u006dethod": "tools\\/call", "params": {"name": "a", "arguments":{"n":1e2}}}'
    assert message(data).forwarded == (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"n":100.0}}}'
    )


def test_arguments_are_told_apart_by_their_digest_alone() -> None:
    """The order of keys does not matter; without arguments there is none."""

    def digest(data: bytes) -> str:
        [found] = message(data).calls
        return found.digest

    assert digest(call("a", x=1, y=2)) == digest(call("a", y=2, x=1)) != ""
    assert digest(call("a")) == digest(request("resources/read", {"uri": "docs://a"})) == ""


def test_only_lists_say_what_they_list() -> None:
    """The answers that are filtered are known from the request."""
    assert message(request("tools/list")).listed == "tools"
    assert message(call("a")).listed == ""


@pytest.mark.parametrize(("data", "code", "why"), FAULTS)
def test_what_is_no_message_that_may_pass_is_not_judged_at_all(data: bytes, code: Code, why: str) -> None:
    """Each fault has its code, and says what to mend."""
    fault = unread(data).fault
    assert (fault.code, why in fault.hint) == (code, True), fault


@pytest.mark.parametrize(
    "notifications",
    [
        None,
        [],
        {"resourceSubscriptions": "docs://a"},
        {"resourceSubscriptions": [7]},
        {"resourceSubscriptions": ["docs://a/../b"]},
        {"resourceSubscriptions": [f"docs://{n}" for n in range(101)]},
        {"ResourceSubscriptions": ["docs://a"]},
        {"everything": True},
    ],
)
def test_a_subscription_that_cannot_be_read_is_refused(notifications: object) -> None:
    """Every URI in it must be there to be decided on."""
    data = request("subscriptions/listen", meta({"notifications": notifications}))
    found = read(data, stateless("subscriptions/listen"))
    assert isinstance(found, Unread)
    assert found.fault.code is Code.INVALID_PARAMS


def test_a_refusal_knows_whom_to_answer() -> None:
    """The id is known as soon as it was read, the method only where it is one of ours."""
    assert unread(request("nonsense", id="x")).sender.id == "x"
    assert unread(request("nonsense")).sender.method == ""
    assert unread(request("tools/call")).sender.method == "tools/call"


@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "x"]),
        st.sampled_from(
            [
                "2.0",
                1,
                None,
                *METHODS,
                {},
                [],
                {"name": "a"},
                {"uri": "a:b"},
                {"name": 1, "arguments": {"a": 1}},
            ]
        ),
    )
)
def test_any_message_is_read_or_not_and_never_half(body: dict[str, Any]) -> None:
    """What is read has a known method or is a response, and is forwarded as it was read."""
    found = read(json.dumps(body).encode(), fields())
    if isinstance(found, Message):
        assert json.loads(found.forwarded) == body
        assert found.kind is Kind.RESPONSE or found.sender.method in METHODS


@given(st.binary())
def test_any_bytes_are_a_message_or_not(data: bytes) -> None:
    """Nothing is raised."""
    assert isinstance(read(data, fields()), Message | Unread)


PIECES = [b'"', b"{", b"}", b"[", b",", b"\\", b"\\u0061", b"\\ud800", b"1e999", b"NaN", b"\xff", b"\xc5\xbf"]
MEMBERS = [
    *(
        b'"name":"delete",',
        b'"Name":"delete",',
        b'"\\u006eame":"delete",',
        b'"\xc5\xbfum":1,',
        b'"arguments":{},',
    ),
    *(b'"method":"tools/list",', b'"Method":"ping",', b'"Params":{"name":"delete"},', b'"x":1,', b'"X":2,'),
    *(b'"amount":"5",', b'"Amount":9,', b'"note":{"amount":1,"y":[1]},', b'"\\u0061":1e2,', b' "z" : -0,'),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A call with more members somewhere, and perhaps broken."""
    data = bytearray(call("get_ticket", amount=5, note="a"))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from([place + 1 for place in range(len(data)) if data[place] == ord("{")]))
        data[at:at] = draw(st.sampled_from(MEMBERS))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(PIECES) | st.binary(max_size=3))
    return bytes(data)


def in_any_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Go's reader: a known name in any case, the last one wins."""
    return {key.casefold(): value for key, value in pairs}


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


@settings(max_examples=500)
@given(mutated())
def test_any_server_reads_the_call_that_was_decided_on(data: bytes) -> None:
    """However lenient its reader is with keys; what is not decided on it does not get."""
    found = read(data, fields())
    if not isinstance(found, Message) or found.sender.method != "tools/call":
        return
    [decided] = found.calls
    for pairs_hook in (dict, in_any_case, first_wins):
        heard = json.loads(found.forwarded, object_pairs_hook=pairs_hook)
        assert heard["method"] == decided.method
        assert heard["params"]["name"] == decided.name
        asked = json.loads(json.dumps(decided.arguments), object_pairs_hook=pairs_hook)
        assert (heard["params"].get("arguments") or {}) == asked
