import json
from collections.abc import Awaitable, Callable, Coroutine
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
    PAUSE_ITEMS,
    UNKNOWN,
    EventFilter,
    JsonFilter,
    Watch,
)
from sidecar.mcp.events import KEEP_ALIVE, Event
from sidecar.mcp.json import ANSWER
from sidecar.mcp.refusal import RequestId
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


async def go_on() -> None:
    """Nobody else is waiting."""


def through(
    make: Callable[[Watch], Filter],
    listed: str,
    data: bytes,
    step: int = 7,
    *,
    number: RequestId | None = 1,
    pause: Callable[[], Awaitable[None]] = go_on,
) -> tuple[bytes, list[str]]:
    """What passes, and what is noted. Without a loop: nothing in it waits."""
    noted: list[str] = []
    looking = make(Watch(Eyes(), listed, number, noted.append, at_once, pause))
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
    assert json.loads(through(JsonFilter, listed, whole)[0]) == cut
    events = through(EventFilter, listed, Event(whole.decode(), "message", "7").spelled())[0]
    assert events == Event(json.dumps(cut, separators=(",", ":")), "message", "7").spelled()


def test_every_list_of_the_protocol_is_filtered() -> None:
    """The table of methods and this one name the same."""
    assert sorted(key for key, *_ in LISTED) == list(LISTS)


def test_what_was_cut_down_for_one_session_is_cached_for_no_other() -> None:
    """A server that says public knows nothing of our rules."""
    whole = json.dumps(result(tools=[], cacheScope="public", ttlMs=5)).encode()
    assert json.loads(through(JsonFilter, "tools", whole)[0]) == result(
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
        assert json.loads(through(JsonFilter, listed, json.dumps(whole).encode())[0]) == whole


def test_an_empty_answer_stays_empty() -> None:
    """202, for one."""
    assert through(JsonFilter, "tools", b"") == (b"", [])


def test_a_list_has_so_many_items() -> None:
    """Each is decided on, and meanwhile everybody waits."""
    few, many = (json.dumps(result(tools=[{"name": "get"}] * n)).encode() for n in (MAX_ITEMS, MAX_ITEMS + 1))
    assert through(JsonFilter, "tools", few, step=65_536)[0]
    with pytest.raises(RemoteError, match="no list of at most"):
        through(JsonFilter, "tools", many, step=65_536)


def test_while_a_long_list_is_cut_down_the_others_have_their_turn() -> None:
    """A page of a thousand would hold up every stream of the node."""
    turns: list[bool] = []

    async def pause() -> None:
        turns.append(True)

    page = json.dumps(result(tools=[{"name": "get"}] * 3 * PAUSE_ITEMS)).encode()
    through(JsonFilter, "tools", page, step=65_536, pause=pause)
    assert len(turns) == 3


@pytest.mark.parametrize("make", [JsonFilter, EventFilter])
@pytest.mark.parametrize(("number", "other"), [(1, 2), (1, "1"), (1, True), ("a", "b"), (None, 1), (1, None)])
def test_a_result_is_that_of_the_request_it_answers(
    make: Callable[[Watch], Filter], number: RequestId | None, other: Json
) -> None:
    """A client takes it by its id: under another request's, a list would come to it that nobody filtered."""
    body = json.dumps({**result(tools=[{"name": "put"}]), "id": other})
    data = Event(body).spelled() if make is EventFilter else body.encode()
    with pytest.raises(RemoteError, match="another request"):
        through(make, "", data, number=number)
    assert b"put" not in through(make, ANY_LIST, data, number=None)[0]


def test_an_error_may_have_any_id() -> None:
    """Servers answer what they could not read without one, or with one of their own."""
    body = b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"no"}}'
    assert through(JsonFilter, "", body) == (body, [])


def test_what_is_held_is_told() -> None:
    """The node counts it."""
    watch = Watch(Eyes(), "", 1, lambda _: None, at_once, go_on)
    for looking, data in ((JsonFilter(watch), b'{"a":'), (EventFilter(watch), b'data: {"a":')):
        _run(looking.feed(data))
        assert looking.held == len(data)
        _run(looking.feed(b"1}\n\n"))
        _run(looking.end())
        assert looking.held == 0


def test_a_key_without_a_name_is_no_list() -> None:
    """What lists nothing is not cut down."""
    body = Event('{"id":1,"result":{"":[{"name":"x"}]}}').spelled()
    assert through(EventFilter, "", body) == (body, [])


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"result":{"tools":{}}}', b'{"a":1,"a":2}', b"\xff"])
def test_a_list_that_cannot_be_read_does_not_pass(data: bytes) -> None:
    """A client might read it after all."""
    with pytest.raises(RemoteError):
        through(JsonFilter, "tools", data)
    with pytest.raises(RemoteError):
        through(EventFilter, "tools", b"data: " + data + b"\n\n")


def test_a_list_is_capped() -> None:
    """It is held back in memory."""
    with pytest.raises(RemoteError, match="an answer of over"):
        through(JsonFilter, "tools", b" " * (ANSWER.size + 1), step=65_536)


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
    body = json.dumps(ends, separators=(",", ":")).encode()
    assert through(JsonFilter, "", body) == (body, ["sampling/createMessage"])


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"a":1,"a":2}'])
def test_what_is_no_message_does_not_pass(body: bytes) -> None:
    """One that two clients read in two ways, either."""
    with pytest.raises(RemoteError):
        through(JsonFilter, "", body)


def test_a_tool_s_own_answer_passes() -> None:
    """An image, for one."""
    body = json.dumps(result(content="x" * 1_000_000), separators=(",", ":"))
    assert through(JsonFilter, "", body.encode(), step=65_536)[0] == body.encode()
    event = Event(body).spelled()
    assert through(EventFilter, "", event, step=65_536) == (event, [])


def test_only_what_clients_of_mcp_read_passes_in_events() -> None:
    """Other types of events end here, comments keep the stream alive, and an id without data passes."""
    stream = b"event: endpoint\ndata: /other\n\n: ping\n\nid: 3\ndata: \n\n"
    assert through(EventFilter, "", stream) == (KEEP_ALIVE + Event(id="3").spelled(), [])


@given(st.binary())
def test_any_answer_passes_filtered_or_is_refused(data: bytes) -> None:
    """Nothing but the one error is raised."""
    for make in (JsonFilter, EventFilter):
        try:
            through(make, ANY_LIST, data)
        except RemoteError:
            continue
