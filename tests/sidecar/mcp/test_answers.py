import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.http.seams import Filter
from sidecar.mcp.answers import (
    ANY_LIST,
    LISTS,
    MAX_ITEMS,
    MAX_LIST_BYTES,
    MAX_TAP_BYTES,
    UNKNOWN,
    EventFilter,
    ListFilter,
    Pass,
    Watch,
)
from sidecar.mcp.events import KEEP_ALIVE, Event
from sidecar.policy.operation import Json, McpCall

T = TypeVar("T")

MAY_CALL = [
    McpCall("tools/call", "get"),
    McpCall("tools/call", "drifted"),
    McpCall("prompts/get", "ask"),
    McpCall("resources/read", "docs://a"),
    McpCall("resources/read", "docs://*"),
]


class Eyes:
    """May call a few things; knows that one tool has drifted."""

    def could_call(self, call: McpCall) -> bool:
        return call in MAY_CALL

    def sees_tool(self, tool: dict[str, Json]) -> bool:
        return tool.get("name") != "drifted"


async def at_once(work: Callable[[], T], size: int) -> T:
    """Nothing is done aside."""
    return work()


def through(
    make: Callable[[Watch], Filter], listed: str, data: bytes, step: int = 7
) -> tuple[bytes, list[str]]:
    """What passes, and what is noted. Without a loop: nothing in it waits."""
    noted: list[str] = []
    looking = make(Watch(Eyes(), listed, noted.append, at_once))
    passed = b"".join(_run(looking.feed(data[at : at + step])) for at in range(0, len(data), step))
    return passed + _run(looking.end()), noted


def _run(coroutine: Coroutine[object, object, bytes]) -> bytes:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return bytes(done.value)
    raise AssertionError("it waits")


def result(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": members}


LISTED = [
    ("tools", "name", ["get", "put", "drifted", 7], ["get"]),
    ("prompts", "name", ["ask", "get"], ["ask"]),
    ("resources", "uri", ["docs://a", "docs://b"], ["docs://a"]),
    ("resourceTemplates", "uriTemplate", ["docs://{id}", "docs://{id}/x"], ["docs://{id}"]),
]


@pytest.mark.parametrize(("key", "named", "names", "shown"), LISTED)
@pytest.mark.parametrize("by_shape", [False, True])
def test_a_list_shows_what_could_be_allowed(
    key: str, named: str, names: list[Any], shown: list[Any], *, by_shape: bool
) -> None:
    """In JSON and in events, known by the request or by its shape; a cursor passes."""
    whole = json.dumps(result(**{key: [*({named: name} for name in names), "x"], "nextCursor": "c"})).encode()
    listed = ANY_LIST if by_shape else key
    cut = result(**{key: [{named: name} for name in shown], "nextCursor": "c"})
    assert json.loads(through(ListFilter, listed, whole)[0]) == cut
    events = through(EventFilter, listed, Event(whole.decode(), "message", "7").spelled())[0]
    assert events == Event(json.dumps(cut, separators=(",", ":")), "message", "7").spelled()


def test_every_list_of_the_protocol_is_filtered() -> None:
    """The table of methods and this one name the same."""
    assert sorted(key for key, *_ in LISTED) == list(LISTS)


def test_what_was_cut_down_for_one_session_is_cached_for_no_other() -> None:
    """A server that says public knows nothing of our rules."""
    whole = json.dumps(result(tools=[], cacheScope="public", ttlMs=5)).encode()
    assert json.loads(through(ListFilter, "tools", whole)[0]) == result(
        tools=[], cacheScope="private", ttlMs=5
    )


@pytest.mark.parametrize(
    "whole",
    [
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "no"}},
        {"jsonrpc": "2.0", "id": 1, "result": {"other": 1}},
        {"jsonrpc": "2.0", "id": 1, "result": None},
    ],
)
def test_an_answer_without_a_list_passes(whole: dict[str, Any]) -> None:
    """An error, for one; also where a client resumes."""
    for listed in ("tools", ANY_LIST):
        assert json.loads(through(ListFilter, listed, json.dumps(whole).encode())[0]) == whole


def test_an_empty_answer_stays_empty() -> None:
    """202, for one."""
    assert through(ListFilter, "tools", b"") == (b"", [])


def test_a_list_has_so_many_items() -> None:
    """Each is decided on, and meanwhile everybody waits."""
    few, many = (json.dumps(result(tools=[{"name": "get"}] * n)).encode() for n in (MAX_ITEMS, MAX_ITEMS + 1))
    assert through(ListFilter, "tools", few, step=65_536)[0]
    with pytest.raises(RemoteError, match="no list of at most"):
        through(ListFilter, "tools", many, step=65_536)


def test_a_long_event_of_a_tool_s_own_answer_passes_unread() -> None:
    """An image, for one; where lists are, it is read all the same."""
    event = Event(json.dumps(result(content="x" * MAX_TAP_BYTES), separators=(",", ":"))).spelled()
    assert through(EventFilter, "", event, step=65_536) == (event, [])
    broken = Event("x" * (MAX_TAP_BYTES + 1)).spelled()
    assert through(EventFilter, "", broken, step=65_536) == (broken, [])
    with pytest.raises(RemoteError):
        through(EventFilter, ANY_LIST, broken, step=65_536)


def test_a_key_without_a_name_is_no_list() -> None:
    """What lists nothing is not cut down."""
    body = Event('{"result":{"":[{"name":"x"}]}}').spelled()
    assert through(EventFilter, "", body) == (body, [])


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"result":{"tools":{}}}', b'{"a":1,"a":2}', b"\xff"])
def test_a_list_that_cannot_be_read_does_not_pass(data: bytes) -> None:
    """A client might read it after all."""
    with pytest.raises(RemoteError):
        through(ListFilter, "tools", data)
    with pytest.raises(RemoteError):
        through(EventFilter, "tools", b"data: " + data + b"\n\n")


def test_a_list_is_capped() -> None:
    """It is held back in memory."""
    with pytest.raises(RemoteError, match="a list of over"):
        through(ListFilter, "tools", b" " * (MAX_LIST_BYTES + 1), step=65_536)


def test_what_a_server_sends_of_its_own_accord_passes_and_is_noted() -> None:
    """Requests and notifications in events, and requests inside a result (2026-07-28)."""
    asked = {"jsonrpc": "2.0", "id": 9, "method": "elicitation/create", "params": {}}
    told = {"jsonrpc": "2.0", "method": "notifications/progress"}
    ends = result(
        resultType="input_required", inputRequests={"a": {"method": "sampling/createMessage"}, "b": 1}
    )
    sent = [Event(json.dumps(one, separators=(",", ":"))) for one in (asked, told, ends)]
    stream = b"".join(event.spelled() for event in sent)
    assert through(EventFilter, "", b'data: {"method":"say anything"}\n\n')[1] == [UNKNOWN]
    methods = ["elicitation/create", "notifications/progress", "sampling/createMessage"]
    assert through(EventFilter, "", stream) == (stream, methods)
    body = json.dumps(ends).encode()
    assert through(Pass, "", body) == (body, ["sampling/createMessage"])


@pytest.mark.parametrize(
    "body", [b"no JSON", b"[]", b'{"result":{"content":[]}}', b"x" * (MAX_TAP_BYTES + 1)]
)
def test_a_tool_s_own_answer_passes_as_it_comes(body: bytes) -> None:
    """Whatever it is, and however long."""
    assert through(Pass, "", body, step=65_536) == (body, [])


def test_only_what_clients_of_mcp_read_passes_in_events() -> None:
    """Other types of events end here, comments keep the stream alive, and an id without data passes."""
    stream = b"event: endpoint\ndata: /other\n\n: ping\n\nid: 3\ndata: \n\n"
    assert through(EventFilter, "", stream) == (KEEP_ALIVE + Event(id="3").spelled(), [])


@given(st.binary())
def test_any_answer_passes_filtered_or_is_refused(data: bytes) -> None:
    """Nothing but the one error is raised."""
    for make in (ListFilter, EventFilter, Pass):
        try:
            through(make, ANY_LIST, data)
        except RemoteError:
            continue
