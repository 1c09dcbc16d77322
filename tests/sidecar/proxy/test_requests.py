import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing

from pki.clock import HOUR, Wall
from pki.ids import new_id
from sidecar.audit.record import Kind, Record
from sidecar.http.seams import Outcome
from sidecar.policy.load import load_policy
from sidecar.policy.model import OperationClass, Policy
from sidecar.policy.operation import HttpCall
from sidecar.proxy.carry import Carrier
from sidecar.proxy.conversation import converse
from sidecar.proxy.requests import StreamJudge
from sidecar.proxy.splice import Gate
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from tests.datapath import LOCK, LogBook, Scene, ScriptedArrival, apply, carrier

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
HOST = b"Host: localhost:15001\r\n"
GET = b"GET /api/pages HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"

POLICY = """
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"
protocol = "http"
host = "wiki.internal"
[[services.wiki.operations]]
methods = ["POST"]
path = "/api/orders/**"
segment = "action"

[agents.researcher]
nodes = ["agents-1"]
uid = 1001
session-quota = { requests = { count = 5, per = "1m" } }

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[grants]]
id = "read-wiki"
agents = ["researcher"]
services = ["wiki"]
http = [{ methods = ["GET"], path = "/api/**" }, { methods = ["POST"], path = "/api/orders/**" }]
"""


def policy(text: str = POLICY) -> Policy:
    return load_policy(text.encode(), "policy.toml")


@dataclass(eq=False)
class HttpArrival(ScriptedArrival):
    """A stream that is read as requests, at the tool's node."""

    carrier: Carrier | None = None
    live: Live | None = None

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:
        assert self.carrier is not None
        self.live = live
        await converse(self.carrier, self, far, gate, live)


@dataclass
class Stage:
    scene: Scene
    log: LogBook
    carrier: Carrier
    arrival: HttpArrival
    nursery: trio.Nursery

    async def ask(self, words: bytes = GET) -> bytes:
        await self.arrival.client.send_all(words)
        await trio.testing.wait_all_tasks_blocked()
        return await self.hear(self.arrival.client)

    async def hear(self, stream: trio.abc.ReceiveStream) -> bytes:
        with trio.move_on_after(0.01):
            return bytes(await stream.receive_some(65_536))
        return b""

    async def answer(self, words: bytes = OK) -> bytes:
        await self.arrival.target.send_all(words)
        heard = await self.hear(self.arrival.client)
        await trio.testing.wait_all_tasks_blocked()
        return heard

    def records(self, *kinds: Kind) -> list[Record]:
        return self.log.of(*kinds)


@pytest.fixture
async def stage(nursery: trio.Nursery) -> AsyncIterator[Stage]:
    scene, log = Scene(policy=policy()), LogBook()
    arrival = HttpArrival(log)
    arrival.subject = replace(arrival.subject, trace=TRACE)
    made = Stage(scene, log, carrier(scene, log), arrival, nursery)
    arrival.carrier = made.carrier
    nursery.start_soon(made.carrier.carry, arrival)
    await trio.testing.wait_all_tasks_blocked()
    yield made
    await trio.aclose_forcefully(arrival.client)


async def test_a_request_is_on_record_before_it_is_forwarded(stage: Stage) -> None:
    """What was asked, what was decided, in which trace; and then what became of it."""
    assert await stage.ask() == b""
    [asked] = stage.records(Kind.REQUEST)
    fields = asked.fields
    assert fields["verdict"] == "allow"
    assert fields["rule"] == "read-wiki"
    assert fields["operation"] == {"method": "GET", "name": "/api/pages"}
    assert (fields["operation_class"], fields["segment"]) == ("read", "retrieval")
    trace = str(fields["trace"])
    assert trace[:35] == TRACE[:35]
    assert trace != TRACE
    assert fields["parent"] == TRACE
    heard = await stage.hear(stage.arrival.target)
    assert f"traceparent: {trace}".encode() in heard
    assert f"Lockgate-Request: {fields['request']}".encode() in heard
    assert b"Host: wiki.internal\r\n" in heard
    assert (await stage.answer()).endswith(b"yes")
    [answered] = stage.records(Kind.ANSWERED)
    assert answered.fields["request"] == fields["request"]
    assert (answered.fields["status"], answered.fields["bytes_in"], answered.fields["bytes_out"]) == (
        200,
        0,
        3,
    )
    assert isinstance(answered.fields["latency"], int)


async def test_a_request_that_no_rule_allows_is_denied_and_its_stream_lives_on(stage: Stage) -> None:
    """One denied record with what was asked; the tool hears nothing."""
    answer = await stage.ask(GET.replace(b"GET", b"DELETE"))
    assert answer.startswith(b"HTTP/1.1 403")
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    [denied] = stage.records(Kind.DENIED)
    assert said["request"] == denied.fields["request"]
    assert (said["reason"], denied.fields["reason"]) == ("no_grant", "no_grant")
    assert denied.fields["operation"] == {"method": "DELETE", "name": "/api/pages"}
    assert stage.records(Kind.REQUEST) == []
    assert len(stage.carrier.table) == 1
    assert await stage.hear(stage.arrival.target) == b""


async def test_what_cannot_be_read_is_denied_on_record(stage: Stage) -> None:
    """With the reason, and nothing of what was sent."""
    answer = await stage.ask(b"GET /secret/../x HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    [denied] = stage.records(Kind.DENIED)
    assert denied.fields["reason"] == "bad_request"
    assert denied.fields["hint"] == "a dot segment in the path"
    assert "secret" not in str(denied.fields)


async def test_a_request_in_flight_is_cut_by_a_lock(stage: Stage) -> None:
    """The stream ends with it, and both are on record."""
    await stage.ask()
    stage.scene.lock()
    assert apply(stage.carrier, stage.scene) == {LOCK: 1}
    await trio.testing.wait_all_tasks_blocked()
    assert stage.log.end.fields["reason"] == Reason.LOCKED
    [answered] = stage.records(Kind.ANSWERED)
    assert (answered.fields["status"], answered.fields["reason"]) == (0, "locked")


async def test_a_request_in_flight_is_judged_by_what_it_does(stage: Stage) -> None:
    """A lock of its segment cuts it, though the stream is in another."""
    await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    assert stage.arrival.live is not None
    operation = stage.arrival.live.request.operation
    assert operation is not None
    assert (operation.method, operation.name) == ("POST", "/api/orders/1")
    stage.scene.lock("segment", "action")
    assert apply(stage.carrier, stage.scene) == {LOCK: 1}


async def test_after_its_answer_the_stream_is_a_stream_again(stage: Stage) -> None:
    """A lock of the last request's segment does not concern it."""
    await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    await stage.answer()
    await trio.testing.wait_all_tasks_blocked()
    assert stage.arrival.live is not None
    assert stage.arrival.live.request.operation is None
    stage.scene.lock("segment", "action")
    assert apply(stage.carrier, stage.scene) == {}


async def test_a_required_segment_waits_for_the_log(stage: Stage) -> None:
    """Nothing is forwarded before the record of the request is durable."""
    stage.log.hold = trio.Event()
    await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    assert await stage.hear(stage.arrival.target) == b""
    stage.log.hold.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (await stage.hear(stage.arrival.target)).startswith(b"POST /api/orders/1 ")


@pytest.mark.parametrize("available", [True, False])
async def test_a_required_segment_is_refused_without_a_log(stage: Stage, available: bool) -> None:
    """Other requests of the same stream go on."""
    stage.log.available, stage.log.commits_fail = available, True
    answer = await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"audit_unavailable" in answer
    assert b"Retry-After" in answer
    [denied] = stage.records(Kind.DENIED)
    assert denied.fields["reason"] == "audit_unavailable"
    assert stage.arrival.live is not None
    assert stage.arrival.live.request.operation is None
    await stage.ask()
    assert (await stage.answer()).endswith(b"yes")


async def test_a_cut_while_the_log_is_waited_for_forwards_nothing(stage: Stage) -> None:
    """The request was in force already, so the lock finds it."""
    stage.log.hold = trio.Event()
    await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    stage.scene.lock("segment", "action")
    apply(stage.carrier, stage.scene)
    await trio.testing.wait_all_tasks_blocked()
    assert stage.log.end.fields["reason"] == Reason.LOCKED
    assert stage.carrier.rooms.has_room(OperationClass.MUTATE, "researcher")


async def test_quotas_refuse_with_the_time_to_wait(stage: Stage) -> None:
    """503, limit, and when there will be room."""
    for _ in range(5):
        await stage.ask()
        await stage.answer()
    answer = await stage.ask()
    assert answer.startswith(b"HTTP/1.1 503")
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert said["reason"] == "limit"
    assert 55 <= said["retry_after"] <= 70
    assert "requests of this session" in said["hint"]


async def test_each_class_has_room_of_its_own(stage: Stage) -> None:
    """No room for mutations leaves room for reads."""
    stage.carrier.rooms.mutate = 0
    answer = await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 1\r\n" in answer
    await stage.ask()
    assert not stage.records(Kind.DENIED)[1:]
    stage.carrier.rooms.read = 1
    assert not stage.carrier.rooms.has_room(OperationClass.READ, "researcher")
    await stage.answer()
    assert stage.carrier.rooms.has_room(OperationClass.READ, "researcher")


async def test_draining_refuses_new_requests(stage: Stage) -> None:
    """Those under way end by themselves."""
    stage.scene.drain()
    answer = await stage.ask()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"draining" in answer


async def test_a_callers_span_of_the_same_trace_is_the_parent(stage: Stage) -> None:
    """So one trace leads from the agent's first action over all nodes; another trace is not continued."""
    mine = TRACE.replace("cd" * 8, "ef" * 8)
    for word, parent in ((mine, mine), (TRACE.replace("ab", "ba"), TRACE), ("junk", TRACE)):
        await stage.ask(GET.replace(b"\r\n\r\n", f"\r\ntraceparent: {word}\r\n\r\n".encode()))
        assert stage.records(Kind.REQUEST)[-1].fields["parent"] == parent
        await stage.answer()


async def test_a_segment_may_record_no_answers(stage: Stage) -> None:
    """Decisions are always on record."""
    stage.scene.policy = policy(POLICY + '[segments.retrieval]\nrecord = "none"\n')
    await stage.ask()
    await stage.answer()
    await trio.testing.wait_all_tasks_blocked()
    assert len(stage.records(Kind.REQUEST)) == 1
    assert stage.records(Kind.ANSWERED) == []


async def test_a_service_that_left_the_policy_has_no_requests(stage: Stage) -> None:
    """The stream is cut with the snapshot that says so; a request that was faster is refused."""
    stage.scene.policy = policy(POLICY.replace("wiki", "other"))
    answer = await stage.ask()
    assert answer.startswith(b"HTTP/1.1 403")


PAGES = (HttpCall("GET", "/api/a"), HttpCall("GET", "/api/b"))


async def test_a_request_about_several_things_passes_if_all_may(stage: Stage) -> None:
    """It is on record with each, or refused as the one that may not."""
    assert stage.arrival.live is not None
    judge = StreamJudge(stage.carrier, stage.arrival.live, stage.arrival.subject)
    refused = await judge.admit((*PAGES, HttpCall("GET", "/other")), b"")
    assert refused.decision.reason is Reason.NO_GRANT
    [denied] = stage.records(Kind.DENIED)
    assert denied.fields["operation"] == {"method": "GET", "name": "/other"}
    assert (await judge.admit(PAGES, b"")).decision.allowed
    [asked] = stage.records(Kind.REQUEST)
    assert asked.fields["operation"] == {"method": "GET", "name": "/api/a"}
    assert asked.fields["also"] == [{"method": "GET", "name": "/api/b"}]
    judge.ended(Outcome(200, 0, 0))
    assert stage.arrival.live.also == ()


DENY = '[[denies]]\nid = "no"\nagents = ["researcher"]\nservices = ["wiki"]\nhttp = [{ methods = ["GET"], path = "%s" }]\n'
CONDITIONED = DENY.replace('path = "%s"', 'path = "/api/**", query = { secret = { present = true } }')


@pytest.mark.parametrize("path", ["/api/a", "/api/b"])
async def test_a_new_deny_reaches_whatever_a_request_is_about(stage: Stage, path: str) -> None:
    """Also what is not the first of it; a certificate that is renewed meanwhile loses none."""
    live = stage.arrival.live
    assert live is not None
    judge = StreamJudge(stage.carrier, live, stage.arrival.subject)
    await judge.admit(PAGES, b"")
    stage.arrival.request = replace(
        stage.arrival.request, not_after=Wall(stage.arrival.request.not_after + HOUR)
    )
    stage.carrier.refresh()
    stage.scene.policy = policy(POLICY + DENY % path)
    apply(stage.carrier, stage.scene)
    assert (live.reason, live.rule) == (Reason.DENIED, "no")


@pytest.mark.parametrize(("query", "reason"), [("?secret=1", Reason.DENIED), ("", None)])
async def test_a_new_deny_with_a_condition_reaches_a_request_in_flight(
    stage: Stage, query: str, reason: Reason | None
) -> None:
    """The policy that let it in did not ask for that."""
    live = stage.arrival.live
    assert live is not None
    await stage.ask(GET.replace(b"/pages", b"/pages" + query.encode()))
    stage.scene.policy = policy(POLICY + CONDITIONED)
    apply(stage.carrier, stage.scene)
    assert live.reason is reason


async def test_without_a_trace_none_is_made_up(stage: Stage) -> None:
    """An opener that named no trace gets none."""
    assert stage.arrival.live is not None
    judge = StreamJudge(stage.carrier, stage.arrival.live, replace(stage.arrival.subject, trace=""))
    admission = await judge.admit((HttpCall("GET", "/api/pages"),), TRACE.encode())
    assert admission.traceparent == ""
    judge.ended(Outcome(200, 0, 0))


async def test_a_renewed_certificate_leaves_the_request_in_force(stage: Stage) -> None:
    """What is under the stream changed, not what is being done over it."""
    await stage.ask()
    stage.arrival.request = replace(
        stage.arrival.request, not_after=Wall(stage.arrival.request.not_after + HOUR)
    )
    stage.carrier.refresh()
    assert stage.arrival.live is not None
    assert stage.arrival.live.request.operation is not None
    assert stage.arrival.live.id == new_id(b"one-stream-16-by")


async def test_a_request_that_needs_the_log_ends_without_it(stage: Stage) -> None:
    """Its stream's own segment does not need it, what is being done over it does."""
    await stage.ask(b"POST /api/orders/1 HTTP/1.1\r\nContent-Length: 0\r\n" + HOST + b"\r\n")
    stage.log.available = False
    assert stage.carrier.cut_unrecorded() == [stage.arrival.live]
    await trio.testing.wait_all_tasks_blocked()
    assert stage.log.end.fields["reason"] == Reason.AUDIT_UNAVAILABLE
