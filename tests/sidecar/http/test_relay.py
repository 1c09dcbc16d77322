import json
from contextlib import suppress
from dataclasses import dataclass

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.http.normal import Reading
from sidecar.http.plain import PlainHttp
from sidecar.http.relay import Settings, why
from sidecar.http.seams import Asked, Body, Fields, Filter, Head
from sidecar.policy.operation import HttpCall
from sidecar.proxy.framed import ResetByPeer
from sidecar.proxy.splice import Broken
from sidecar.reasons import Reason
from tests.sidecar.http.world import HOST, IDENTITY, REQUEST_ID, TRACEPARENT, Tool, World, relay, says

GET = b"GET /api/pages HTTP/1.1\r\nHost: 127.0.0.1:15001\r\n\r\n"
NO = GET.replace(b"/api", b"/no")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"


def post(body: bytes = b"hello", path: bytes = b"/api", more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:15001\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path,
        more,
        len(body),
        body,
    )


async def test_the_tool_receives_what_was_decided_on_with_verified_marks() -> None:
    """Target, fields and identity are those of the normal form, not of the agent's spelling."""
    async with relay() as world:
        asked = b"GET /%61pi/pages?q=a;b HTTP/1.1\r\nHost: 127.0.0.1:15001\r\nLockgate-Agent: root\r\n\r\n"
        answer = await world.ask(asked)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nyes")
        head, *fields = world.heard.removesuffix(b"\r\n\r\n").split(b"\r\n")
        assert head == b"GET /api/pages?q=a%3Bb HTTP/1.1"
        assert dict(field.split(b": ", 1) for field in fields) == {
            b"Host": HOST.encode(),
            b"Lockgate-Agent": b"researcher",
            b"Lockgate-Session": IDENTITY.session.encode(),
            b"Lockgate-Stream": IDENTITY.stream.encode(),
            b"Lockgate-Request": REQUEST_ID.encode(),
            b"Via": b"1.1 lockgate",
            b"traceparent": TRACEPARENT.encode(),
        }
        [call] = world.judge.calls
        assert (call.method, getattr(call, "path", "")) == ("GET", "/api/pages")


async def test_requests_follow_each_other_on_one_connection_to_the_tool() -> None:
    """Keep-alive on both sides: no dial for each request."""
    async with relay() as world:
        for _ in range(5):
            assert (await world.ask(GET)).endswith(b"yes")
        await trio.testing.wait_all_tasks_blocked()
        assert len(world.tools) == 1
        assert len(world.judge.outcomes) == 5
        assert {one.status for one in world.judge.outcomes} == {200}


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """What is sent in advance waits for its turn, and nothing of it is lost."""
    async with relay() as world:
        await world.agent.send_all(GET + NO + GET)
        assert b"200 OK" in await world.response()
        assert b"403" in await world.response()
        assert b"200 OK" in await world.response()
        assert len(world.judge.calls) == 3


async def test_a_refusal_says_why_and_the_connection_goes_on() -> None:
    """403 with what an agent can act on; the tool hears nothing."""
    async with relay() as world:
        answer = await world.ask(NO)
        assert answer.startswith(b"HTTP/1.1 403 \r\n")
        said = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert said == {
            "schema_version": 1,
            "reason": "no_grant",
            "rule": "",
            "hint": "no grant lets you",
            "request": REQUEST_ID,
        }
        assert world.heard == b""
        assert (await world.ask(GET)).endswith(b"yes")


async def test_a_refused_body_is_discarded_and_the_connection_goes_on() -> None:
    """A short body of a refused request is read away."""
    async with relay() as world:
        assert b"403" in await world.ask(post(b"x" * 10_000, b"/no"))
        assert (await world.ask(GET)).endswith(b"yes")


async def test_a_refused_body_that_is_long_ends_the_connection() -> None:
    """Nobody reads a gigabyte only to refuse it."""
    async with relay() as world:
        head = b"POST /no HTTP/1.1\r\nHost: 127.0.0.1:15001\r\nContent-Length: 1000000000\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.agent.send_all, head + b"x" * 200_000)
            answer = await world.response()
            nursery.cancel_scope.cancel()
        assert b"Connection: close" in answer
        assert b"403" in answer


async def test_a_refused_body_that_does_not_come_ends_the_connection(autojump_clock: object) -> None:
    """A second is what a refusal waits for the rest of a body."""
    async with relay() as world:
        before = trio.current_time()
        answer = await world.ask(post(b"x" * 10, b"/no")[:-1])
        assert b"Connection: close" in answer
        assert trio.current_time() - before < 2
        await world.done.wait()
        assert world.broken is None


async def test_who_waits_for_a_100_is_refused_before_it_sends_its_body() -> None:
    """The answer comes at once, and the connection ends: the body may come or not."""
    async with relay() as world:
        asked = post(b"", b"/no", b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 99")
        answer = await world.ask(asked)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"Connection: close" in answer


async def test_expect_goes_to_the_tool_and_its_100_comes_back() -> None:
    """It is the tool that wants to see a body, or not."""

    async def careful(tool: Tool) -> None:
        assert b"expect: 100-continue" in await tool.hear()
        await tool.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        await tool.hear(b"hello")
        await tool.say(OK)

    async with relay(careful) as world:
        asked = post(b"hello", more=b"Expect: 100-continue\r\n")
        await world.agent.send_all(asked.removesuffix(b"hello"))
        assert (await world.response()).startswith(b"HTTP/1.1 100 ")
        assert b"200 OK" in await world.ask(b"hello")


async def test_bodies_stream_both_ways_at_once() -> None:
    """A tool may answer what it has read so far: each piece arrives before the next is sent."""

    async def echoes(tool: Tool) -> None:
        await tool.hear()
        await tool.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two"):
            await tool.hear(word)
            await tool.say(b"3\r\n%b\r\n" % word)
        await tool.hear(b"0\r\n\r\n")
        await tool.say(b"0\r\n\r\n")

    async with relay(echoes) as world:
        head = b"POST /e HTTP/1.1\r\nHost: 127.0.0.1:15001\r\nTransfer-Encoding: chunked\r\n\r\n"
        await world.agent.send_all(head + b"3\r\none\r\n")
        while b"one" not in world.buffered:
            world.buffered += await world.agent.receive_some()
        await world.agent.send_all(b"3;ext=1\r\ntwo\r\n")
        while b"two" not in world.buffered:
            world.buffered += await world.agent.receive_some()
        await world.agent.send_all(b"0\r\nTrailer-Of: mine\r\n\r\n")
        while not world.buffered.endswith(b"0\r\n\r\n"):
            world.buffered += await world.agent.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert b"ext" not in world.heard
        assert b"Trailer-Of" not in world.heard
        [outcome] = world.judge.outcomes
        assert (outcome.bytes_in, outcome.bytes_out) == (6, 6)


async def test_an_early_response_ends_the_exchange_and_the_tools_connection() -> None:
    """A tool that does not want the rest is not sent it; the next request goes over a new connection."""

    async def unwilling(tool: Tool) -> None:
        await tool.hear()
        await tool.say(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        await trio.sleep_forever()

    async with relay(unwilling) as world:
        assert b"413" in await world.ask(post(b"x" * 10)[:-5])
        await world.agent.send_all(b"x" * 5)
        assert b"413" in await world.ask(GET)
        assert len(world.tools) == 2


async def test_a_tool_that_is_tired_of_its_connection_is_dialled_again() -> None:
    """What may be repeated is, once; the agent notices nothing."""
    async with relay(says(OK)) as world:
        assert b"200 OK" in await world.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert b"200 OK" in await world.ask(GET)
        assert len(world.tools) == 2


async def test_what_changes_something_is_never_sent_twice() -> None:
    """Nobody knows what a tool did with a POST before it hung up."""
    async with relay(says(OK)) as world:
        assert b"200 OK" in await world.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        answer = await world.ask(post())
        assert answer.startswith(b"HTTP/1.1 502")
        assert b"target_unreachable" in answer
        assert world.judge.outcomes[-1].status == 502


async def test_a_tool_that_cannot_be_dialled_again_is_a_502() -> None:
    """The connection to the agent goes on."""
    async with relay(says(OK), dials=1) as world:
        assert b"200 OK" in await world.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert b"502" in await world.ask(GET)
        assert b"502" in await world.ask(GET)


async def test_connection_close_ends_the_stream_cleanly() -> None:
    """The agent's wish, and what follows is not read."""
    async with relay() as world:
        await world.agent.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert b"Connection: close" in await world.response()
        await world.agent.aclose()
        await world.done.wait()
        assert world.broken is None


async def test_the_agents_end_between_requests_is_clean() -> None:
    """A half-close after a request is no abort: its answer comes."""
    async with relay() as world:
        await world.agent.send_all(GET)
        await world.agent.send_eof()
        assert (await world.everything()).endswith(b"yes")
        await world.done.wait()
        assert world.broken is None


async def test_an_agent_that_leaves_in_a_body_is_no_complete_request() -> None:
    """The tool must not take half an upload for a whole one."""
    ended: list[bytes] = []

    async def listening(tool: Tool) -> None:
        try:
            ended.append(await tool.hear(b"never"))
        except trio.BrokenResourceError:
            ended.append(b"broken")

    async with relay(listening) as world:
        await world.agent.send_all(post(b"hello")[:-2])
        await world.agent.send_eof()
        await world.done.wait()
        assert world.broken is not None
        assert world.broken.near
        assert not world.heard.endswith(b"hello")


async def test_why_an_exchange_broke_is_its_outcome() -> None:
    """The peer's word for a cut, a request that broke its framing, a tool that left, an agent that left."""
    gone = trio.BrokenResourceError()
    for broken, reason in (
        (Broken(near=True, cause=ResetByPeer("locked")), Reason.LOCKED),
        (Broken(near=True, cause=ResetByPeer("")), None),
        (Broken(near=True, cause=RemoteError("chunks")), Reason.BAD_REQUEST),
        (Broken(near=True, cause=gone), None),
        (Broken(near=False, cause=gone), Reason.TARGET_UNREACHABLE),
        (Broken(near=False, cause=RemoteError("chunks")), Reason.TARGET_UNREACHABLE),
    ):
        assert why(broken) == reason


async def test_a_response_cut_short_is_not_passed_off_as_whole() -> None:
    """The agent's connection breaks instead."""
    async with relay(says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")) as world:
        await world.agent.send_all(GET)
        await world.done.wait()
        assert world.broken is not None
        assert not world.broken.near


async def test_a_response_of_http_1_0_is_passed_on_with_framing() -> None:
    """Many small tools speak no better; its end is the connection's."""
    async with relay(says(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nall of it")) as world:
        await world.agent.send_all(GET)
        while b"0\r\n\r\n" not in world.buffered:
            world.buffered += await world.agent.receive_some()
        assert b"Transfer-Encoding: chunked" in world.buffered
        assert b"all of it" in world.buffered
        assert b"200 OK" in await world.ask(GET) or world.tools


AMBIGUOUS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nyes",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nyes",
    b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nyes",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 3\n\nyes",
    b"HTTP/1.1 200 OK\r\nA\x01: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 99 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000 + b"\r\n\r\n",
    b"",
]


async def test_an_ambiguous_response_is_a_502() -> None:
    """What a tool's answer means has one reading, or the agent does not get it."""
    for response in AMBIGUOUS:
        async with relay(says(response)) as world:
            answer = await world.ask(GET)
            assert answer.startswith(b"HTTP/1.1 502 "), response
            assert world.judge.outcomes[-1].status == 502
            assert b"200 OK" not in answer


async def test_a_response_nobody_asked_for_is_not_taken_for_the_next() -> None:
    """Bytes after a response end the tool's connection (response splitting)."""

    async def splitting(tool: Tool) -> None:
        await tool.hear()
        await tool.say(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await trio.sleep_forever()

    async with relay(splitting) as world:
        for _ in range(2):
            answer = await world.ask(GET)
            assert answer.endswith(b"yes")
        assert len(world.tools) == 2


async def test_a_head_response_has_no_body() -> None:
    """Its Content-Length is that of a GET."""
    async with relay(says(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", OK)) as world:
        await world.agent.send_all(GET.replace(b"GET", b"HEAD"))
        assert b"content-length: 3" in await world.response(has_body=False)
        assert (await world.ask(GET)).endswith(b"yes")


async def test_a_refused_head_request_gets_no_body() -> None:
    """Or the body would be taken for the next response."""
    async with relay() as world:
        await world.agent.send_all(NO.replace(b"GET", b"HEAD"))
        assert b"403" in await world.response(has_body=False)
        assert (await world.ask(GET)).endswith(b"yes")


WEBSOCKET = GET.replace(
    b"\r\n\r\n",
    b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n",
)


async def test_a_websocket_is_one_decided_request_and_then_bytes() -> None:
    """Bytes that follow either head at once are not lost."""

    async def chat(tool: Tool) -> None:
        assert b"Upgrade: websocket" in await tool.hear()
        await tool.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-A: b\r\n\r\nhi")
        await tool.hear(b"early")
        await tool.say(b"late")
        await tool.stream.send_eof()

    async with relay(chat) as world:
        await world.agent.send_all(WEBSOCKET + b"early")
        await world.agent.send_eof()
        heard = await world.everything()
        assert heard.startswith(b"HTTP/1.1 101 ")
        assert b"Upgrade: websocket" in heard
        assert heard.endswith(b"\r\n\r\nhilate")
        await world.done.wait()
        assert world.broken is None
        [call] = world.judge.calls
        assert call.method == "WEBSOCKET"
        [outcome] = world.judge.outcomes
        assert (outcome.status, outcome.bytes_in, outcome.bytes_out) == (101, 5, 6)


async def test_a_tool_may_decline_a_websocket() -> None:
    """It answers, and the connection goes on with HTTP."""
    async with relay() as world:
        assert (await world.ask(WEBSOCKET)).endswith(b"yes")
        assert (await world.ask(GET)).endswith(b"yes")


async def test_a_credential_is_added_in_place_of_the_agents_own() -> None:
    """Read at each use; neither side of it comes back to the agent."""
    credential = (b"Authorization", b"Bearer of-the-tool")
    settings = Settings(IDENTITY, Reading(frozenset({HOST})), b"wiki.internal", lambda: credential)
    async with relay(settings=settings) as world:
        mine = b"\r\nauthorization: Bearer mine\r\nAuthorization_: x\r\n\r\n"
        answer = await world.ask(GET.replace(b"\r\n\r\n", mine))
        assert b"Bearer" not in answer
        assert b"Authorization: Bearer of-the-tool" in world.heard
        assert b"mine" not in world.heard
        assert b"Host: wiki.internal\r\n" in world.heard


async def test_a_stalled_head_is_given_up(autojump_clock: object) -> None:
    """A client that trickles costs a bounded time."""
    async with relay() as world:
        answer = await world.ask(GET[:20])
        assert answer.startswith(b"HTTP/1.1 408")
        [why] = world.judge.rejected
        assert why.status == 408


# -- A dialect that reads bodies


class Shouting(PlainHttp):
    """Reads the whole request, forwards it in capitals, and looks into what comes back."""

    inspects = True

    async def read(self, head: Head, body: Body) -> Asked:
        return Asked(head.call, (await body.whole(20)).upper())

    def filter(self, asked: Asked, status: int, fields: Fields) -> Filter | None:  # noqa: ARG002 - the seam's
        return Censor() if status == 200 else None


class Censor:
    """Passes on what is not "evil", in capitals; at the end it says so."""

    holds_head = True
    held = 0

    async def feed(self, data: bytes) -> bytes:
        if b"evil" in data:
            raise RemoteError("evil")
        return data.upper() if data != b"later" else b""

    async def end(self) -> bytes:
        return b"!"


async def repeats(tool: Tool) -> None:
    """Sends the body back."""
    while head := await tool.hear():
        length = next(
            (int(x[16:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0
        )
        body = b""
        while len(body) < length:
            body += await tool.stream.receive_some(length - len(body))
        tool.heard += body
        said = body.lower()
        await tool.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


async def until_in(world: World, words: bytes) -> None:
    while words not in world.buffered:
        data = await world.agent.receive_some(65_536)
        assert data, world.buffered
        world.buffered += data


async def test_a_dialect_may_read_the_request_first() -> None:
    """What it gives is forwarded, with its own length; the tool is asked for no content coding."""
    async with relay(repeats, Shouting()) as world:
        await world.agent.send_all(post(b"hello", more=b"Accept-Encoding: gzip\r\n"))
        await until_in(world, b"6\r\nHELLO!\r\n0\r\n\r\n")
        assert world.heard.endswith(b"HELLO")
        assert b"Accept-Encoding: identity" in world.heard
        assert world.buffered.startswith(b"HTTP/1.1 200 ")
        assert b"Transfer-Encoding: chunked" in world.buffered
        await trio.testing.wait_all_tasks_blocked()
        [outcome] = world.judge.outcomes
        assert (outcome.bytes_in, outcome.bytes_out) == (5, 6)


async def test_who_waits_for_a_100_is_told_to_go_on_by_the_dialect() -> None:
    """The tool is sent no Expect: the body is there already."""
    async with relay(repeats, Shouting()) as world:
        asked = post(b"hello", more=b"Expect: 100-continue\r\n")
        await world.agent.send_all(asked.removesuffix(b"hello"))
        assert (await world.response()).startswith(b"HTTP/1.1 100 ")
        await world.agent.send_all(b"hello")
        await until_in(world, b"HELLO")
        assert b"expect" not in world.heard.lower()


async def test_a_body_that_is_too_long_to_read_is_refused() -> None:
    """413, and the tool hears nothing."""
    async with relay(repeats, Shouting()) as world:
        assert b" 413 " in await world.ask(post(b"x" * 30))
        assert world.heard == b""
        assert (await world.ask(post(b""))).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_does_not_come_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """408: nothing was decided yet, and a few bytes in an hour must not hold a place."""
    async with relay(repeats, Shouting()) as world:
        answer = await world.ask(post(b"hello").removesuffix(b"llo"))
        assert b" 408 " in answer
        assert b"did not come within 30 s" in answer
        assert world.heard == b""


async def test_all_bodies_together_have_a_limit() -> None:
    """503, and when to come again; the room is given back with the end of a request."""
    async with relay(repeats, Shouting()) as world:
        world.budget.most = 500
        assert b" 503 " in (refused := await world.ask(post(b"hello")))
        assert b"Retry-After: " in refused
        assert world.judge.rejected[-1].reason is Reason.LIMIT
        assert world.heard == b""
        for _ in range(3):
            world.buffered = b""
            await world.agent.send_all(post(b"h"))
            await until_in(world, b"0\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert world.budget.taken == 0


async def test_an_answer_that_is_looked_into_counts_too() -> None:
    """What a filter holds; a tool is told nothing, and its agent that there is no room."""
    async with relay(repeats, Shouting()) as world:
        world.budget.most = 4
        assert b" 502 " in await world.ask(post(b"h"))
        world.budget.most = 10_000
        assert b" 200 " in await world.ask(post(b"h"))


async def test_a_body_that_breaks_while_it_is_read_is_refused() -> None:
    """400, and the connection ends: nobody knows where the next request begins."""
    async with relay(repeats, Shouting()) as world:
        head = b"POST /e HTTP/1.1\r\nHost: 127.0.0.1:15001\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await world.ask(head + b"xyz\r\n")
        assert b" 400 " in answer
        assert b"Connection: close" in answer


async def test_a_response_that_its_filter_refuses_is_a_502() -> None:
    """As long as nothing of it has passed."""
    async with relay(repeats, Shouting()) as world:
        assert b" 502 " in await world.ask(post(b"evil"))
        assert world.judge.outcomes[-1].status == 502


async def test_a_response_that_its_filter_refuses_later_is_cut() -> None:
    """What has passed cannot be taken back, and does not look complete."""

    async def slowly(tool: Tool) -> None:
        await tool.hear()
        await tool.say(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n")
        for words in (b"later", b"first", b"evil"):
            await trio.testing.wait_all_tasks_blocked()
            await tool.say(words)

    async with relay(slowly, Shouting()) as world:
        await world.agent.send_all(GET)
        await world.done.wait()
        assert b"FIRST" in await world.everything()
        assert b"0\r\n\r\n" not in world.buffered
        assert world.broken is not None
        assert not world.broken.near


# -- Any bytes: refused, or the tool receives exactly what was decided on

LINES = [
    b"Host: 127.0.0.1:15001",
    b"Host: evil.example",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 40",
    b"content-length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rContent-Length: 3",
    b"Content_Length: 3",
    b"Transfer_Encoding: chunked",
    b"Connection: close",
    b"Connection: Content-Length, Host",
    b"Connection: upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Lockgate-Agent: root",
    b"X-Original-URL: /no",
    b"Cookie: a=b",
]
PLAIN = [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Cookie: a=b", b"Lockgate-Agent: root"]
TARGETS = [b"/a", b"/no", b"/%6eo", b"/a/../no", b"/a%2f..%2fno", b"//no", b"/a?b;c", b"http://h/a", b"*"]
BODIES = [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;a=\nb\r\nhello\r\n0\r\n\r\n", GET, NO]

pieces = st.builds(
    lambda method, target, lines, end, body: b"".join(
        [method, b" ", target, b" HTTP/1.1\r\n", *(line + b"\r\n" for line in lines), end, body]
    ),
    st.sampled_from([b"GET", b"POST", b"POST", b"HEAD", b"DELETE", b"get"]),
    st.just(b"/a") | st.sampled_from(TARGETS) | st.binary(max_size=6).map(lambda rest: b"/" + rest),
    (st.lists(st.sampled_from(PLAIN), max_size=2) | st.lists(st.sampled_from(LINES), max_size=3)).map(
        lambda lines: [LINES[0], *lines]
    ),
    st.just(b"\r\n") | st.sampled_from([b"\r\n", b"\n", b""]),
    st.sampled_from(BODIES),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests after each other, and a few bytes of them changed, gone or repeated."""
    data = bytearray(b"".join(draw(st.lists(pieces, min_size=1, max_size=3))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["change", "drop", "repeat"])):
            case "change":
                data[at] = draw(st.sampled_from(b"\x00\t\n\r :%/.;,+0a\x7f\xe9"))
            case "drop" if len(data) > 1:
                del data[at]
            case _:
                data[at:at] = data[max(0, at - 8) : at]
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_any_bytes_are_refused_or_the_tool_receives_what_was_decided_on(data: bytes) -> None:
    """Whoever reads what the tool received, however leniently, reads exactly the calls that were allowed."""
    decided, heard = trio.run(relayed, data, clock=trio.testing.MockClock(autojump_threshold=0))
    for reader in (Reader(), Reader(takes_lf=True), Reader(length_first=True), Reader(unfolds=True)):
        assert reader.read(heard) == decided, reader


async def relayed(data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """The allowed calls, and what the tool received, after an agent that sends ``data`` and listens to the end."""

    async def listens(tool: Tool) -> None:
        """Answers whatever it hears, without reading it."""
        while got := await tool.stream.receive_some(65_536):
            tool.heard += got
            await trio.testing.wait_all_tasks_blocked()
            await tool.say(OK)

    async with relay(listens) as world:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.everything)
            with suppress(trio.BrokenResourceError):
                await world.agent.send_all(data)
                await world.agent.send_eof()
            await world.done.wait()
            nursery.cancel_scope.cancel()
        calls = [call for call in world.judge.calls if isinstance(call, HttpCall)]
        admitted = [call for call in calls if world.judge.decide(call).allowed]
        ended = zip(admitted, world.judge.outcomes, strict=True)
        allowed = [call for call, outcome in ended if outcome.status != 400]
        heard = b"\n--\n".join(bytes(tool.heard) for tool in world.tools)
        return [("GET" if call.method == "WEBSOCKET" else call.method, call.path) for call in allowed], heard


@dataclass
class Reader:
    """A server's reading of bytes, wrong in one way or another, as servers have been."""

    takes_lf: bool = False
    length_first: bool = False
    unfolds: bool = False

    def read(self, heard: bytes) -> list[tuple[str, str]]:
        """Method and path of each request, one connection after the other."""
        found = []
        for data in heard.split(b"\n--\n"):
            rest = data
            while rest:
                one, rest = self._request(rest)
                found += one
        return found

    def _request(self, data: bytes) -> tuple[list[tuple[str, str]], bytes]:
        head, _, rest = data.partition(b"\r\n\r\n")
        if self.takes_lf:
            head = head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self.unfolds:
            head = head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ")
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.split(b" ")
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(b":") for x in lines)
        }
        assert fields[b"host"] == HOST.encode()
        assert fields[b"lockgate-agent"] == b"researcher"
        one = [(method.decode(), target.decode().partition("?")[0])]
        length, chunked = fields.get(b"content-length"), b"transfer-encoding" in fields
        if b"upgrade" in fields:
            return one, b""
        if chunked and not (self.length_first and length):
            return one, self._after_chunks(rest)
        return one, rest[int(length or b"0") :]

    def _after_chunks(self, data: bytes) -> bytes:
        size = -1
        while size and data:
            line, _, data = data.partition(b"\r\n")
            size = int(line, 16)
            data = data[size + 2 :]
        return data
