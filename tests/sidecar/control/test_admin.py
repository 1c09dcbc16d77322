import base64
import os
from pathlib import Path

import pytest
from starlette.applications import Starlette

from pki.clock import HOUR, MINUTE, SECOND, Boot, Wall
from pki.statement import Adoption, Statement
from sidecar.control.admin import admin_app
from sidecar.policy.decide import Request
from sidecar.proxy.streams import FOREVER, Limits, Live
from sidecar.reasons import Reason
from tests.authority import NOW, SESSION
from tests.sidecar.ca.world import POLICY
from tests.sidecar.control.world import Station, ask, message, station, with_policy
from tests.statements import Mint, lock, revocation


@pytest.fixture
def node(tmp_path: Path) -> Station:
    return station(tmp_path, Mint())


@pytest.fixture
def app(node: Station) -> Starlette:
    async def reload() -> list[str]:
        return []

    return admin_app(node, reload)


async def listed(node: Station) -> Statement:
    """A lock by a responder of the roster."""
    alice = node.mint.operator("alice")
    await node.member.take([node.mint.enlists(alice).raw], None)
    return alice.says("lock", lock("agent", "researcher", message="stop"), ttl=HOUR)


def submitted(statement: Statement) -> dict[str, str]:
    return {"envelope": base64.b64encode(statement.raw).decode()}


async def test_a_new_node_is_not_ready_and_says_so(app: Starlette) -> None:
    """Without policy and heartbeat everything is refused."""
    status, body = await ask(app, "GET", "/v1/status")
    assert (status, body["schema_version"], body["role"], body["name"]) == (200, 1, "node", "agents-1")
    assert body["ready"] is False
    assert body["fresh_as_of"] is None
    assert body["segments"] == {}
    assert body["pid"] == os.getpid()


async def test_a_node_is_ready_once_it_is_complete(node: Station, app: Starlette) -> None:
    """Policy, roster and freshness of each segment are there to read."""
    await with_policy(node, POLICY)
    loaded = node.member.loaded
    beat = node.mint.beats(
        node.member.store.numbered_digest(NOW),
        number=node.member.store.last_number(),
        policy_sequence=1,
        policy_digest=loaded.digest,
    )
    await node.member.take([beat.raw], None)
    _, body = await ask(app, "GET", "/v1/status")
    assert body["ready"] is True
    assert body["nodes"] == ["agents-1", "tools-1"]
    assert body["segments"]["retrieval"] == {
        "fresh": True,
        "until": NOW + 5 * MINUTE,
        "mode": "enforce",
        "would_deny": {},
        "slo": None,
    }
    assert [(one["agent"], one["service"], one["port"]) for one in body["bindings"]] == [
        ("researcher", "wiki", 15001)
    ]


async def test_a_statement_that_is_handed_in_is_in_force(node: Station, app: Starlette) -> None:
    """Its id comes back, and `status` shows it."""
    locked = await listed(node)
    status, body = await ask(app, "POST", "/v1/statements", submitted(locked))
    assert (status, body["id"], body["kind"]) == (200, locked.id, "lock")
    _, body = await ask(app, "GET", "/v1/status")
    assert body["locks"] == [
        {
            "id": locked.id,
            "target": "agent:researcher",
            "until": NOW + HOUR,
            "by": "spiffe://example.org/operator/alice",
            "message": "stop",
        }
    ]


async def test_a_lock_that_has_ended_is_not_shown(node: Station, app: Starlette) -> None:
    """It ends by the floor, even before the next look at the store."""
    locked = await listed(node)
    await node.member.take([node.mint.beats("0" * 64).raw, locked.raw], None)
    clock = node.seams.clock
    clock.pass_time(HOUR)  # type: ignore[attr-defined]  # the test's clock
    assert (await ask(app, "GET", "/v1/status"))[1]["locks"] == []


async def test_a_statement_of_somebody_who_may_not_is_refused_in_words(node: Station, app: Starlette) -> None:
    """The reason, without the id that nobody asked for."""
    stranger = node.mint.operator("mallory").says("lock", lock())
    answer = await ask(app, "POST", "/v1/statements", submitted(stranger))
    assert answer[0] == 400
    assert (
        message(answer)
        == "statement lock: spiffe://example.org/operator/mallory may not sign it, only ca, responder"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        {},
        {"envelope": 7},
        {"envelope": "*"},
        {"envelope": "AAAA"},
        [],
        {"envelope": "", "x": 1},
    ],
)
async def test_what_is_no_statement_is_refused(app: Starlette, body: object) -> None:
    """Whatever the bytes are, the answer is one refusal."""
    answer = await ask(app, "POST", "/v1/statements", body)
    assert answer[0] == 400
    assert message(answer)


async def test_a_statement_is_confirmed_by_the_receipts_of_the_roster(node: Station, app: Starlette) -> None:
    """Each node of the roster once; one without a receipt is unconfirmed, and until when it may serve is said."""
    await with_policy(node, POLICY)
    beat = node.mint.beats("0" * 64)
    locked = await listed(node)
    await node.member.take([beat.raw, locked.raw], None)
    await node.outbox.deliver()
    _, body = await ask(app, "GET", f"/v1/statements/{locked.id}")
    assert body["nodes"]["agents-1"] == {"state": "confirmed", "since": NOW, "cut": 0}
    unconfirmed = body["nodes"]["tools-1"]
    assert unconfirmed["state"] == "unconfirmed"
    assert unconfirmed["refuses_by"]["retrieval"] == NOW + 5 * MINUTE
    assert (body["author"], body["issued"]) == ("spiffe://example.org/operator/alice", NOW)
    assert body["counted"] is False


async def test_once_the_ca_counts_it_a_node_without_it_is_fresh_no_more(
    node: Station, app: Starlette
) -> None:
    """So it refuses by itself at the latest when the heartbeats before that have gone stale."""
    await with_policy(node, POLICY)
    locked = await listed(node)
    adopted = node.mint.says("adoption", Adoption(original=locked.raw), issued=NOW + SECOND)
    await node.member.take([node.mint.beats("0" * 64).raw, locked.raw, adopted.raw], None)
    _, body = await ask(app, "GET", f"/v1/statements/{locked.id}")
    assert body["counted"] is True
    assert body["nodes"]["tools-1"]["refuses_by"]["retrieval"] == NOW + SECOND + 5 * MINUTE


async def test_a_revoked_node_is_not_waited_for(node: Station, app: Starlette) -> None:
    """It is no member any more."""
    await with_policy(node, POLICY)
    revoked = node.mint.says("revocation", revocation("node", "tools-1"))
    await node.member.take([revoked.raw], None)
    _, body = await ask(app, "GET", f"/v1/statements/{revoked.id}")
    assert list(body["nodes"]) == ["agents-1"]
    assert body["nodes"]["agents-1"]["refuses_by"] == {}


async def test_a_statement_that_is_not_held_is_refused(app: Starlette) -> None:
    """So a waiting command line knows that it has not come here yet."""
    answer = await ask(app, "GET", f"/v1/statements/{'a' * 26}")
    assert (answer[0], message(answer)) == (400, f"statement {'a' * 26}: not held here")


def live(node: Station, cancelled: list[str]) -> Live:
    request = Request(node.mint.ca.agent(), "wiki", "tools-1", (), Wall(NOW + HOUR))
    return Live(
        id=SESSION,
        request=request,
        limits=Limits(),
        started=Boot(0),
        cancel=lambda: cancelled.append("cancelled"),
        active=Boot(0),
        judge_by=FOREVER,
        bytes_in=3,
        peer="tools-1",
    )


async def test_streams_are_listed_and_cut(node: Station, app: Starlette) -> None:
    """One that is cut says why before it is ended."""
    cancelled: list[str] = []
    stream = live(node, cancelled)
    node.carrier.table.admit(stream)
    _, body = await ask(app, "GET", "/v1/streams")
    assert body["streams"] == [
        {
            "stream": SESSION,
            "session": SESSION,
            "agent": "researcher",
            "service": "wiki",
            "peer": "tools-1",
            "open": False,
            "bytes_in": 3,
            "bytes_out": 0,
        }
    ]
    status, body = await ask(app, "POST", f"/v1/streams/{SESSION}/cut")
    assert (status, body["stream"], cancelled) == (200, SESSION, ["cancelled"])
    assert stream.reason is Reason.LOCKED


async def test_a_stream_that_is_not_live_cannot_be_cut(app: Starlette) -> None:
    """The refusal names it."""
    assert message(await ask(app, "POST", f"/v1/streams/{SESSION}/cut")) == f"stream {SESSION}: not live here"


async def test_an_unknown_call_is_refused_in_the_same_form(app: Starlette) -> None:
    """A command line of another version reads one kind of error."""
    answer = await ask(app, "GET", "/v1/nothing")
    assert (answer[0], message(answer)) == (
        404,
        "GET /v1/nothing: no such call; is --dir of the right daemon?",
    )
    assert (await ask(app, "DELETE", "/v1/status"))[0] == 405
