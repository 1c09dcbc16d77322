from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.clock import HOUR, MINUTE, SECOND, Wall
from pki.errors import RemoteError
from pki.ids import new_id
from sidecar.audit.record import Kind
from sidecar.policy.model import Policy, Quota, Window
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.arrival import EndedError
from sidecar.proxy.carry import STATEMENT_SECONDS, Carrier
from sidecar.proxy.framed import ResetByPeer
from sidecar.proxy.streams import Limits, Live
from sidecar.reasons import Reason
from tests.authority import NOW, SESSION
from tests.datapath import (
    ENDS,
    LOCK,
    LogBook,
    Scene,
    ScriptedArrival,
    apply,
    carrier,
    policy,
    subject,
)


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def carries(scene: Scene, log: LogBook) -> Carrier:
    return carrier(scene, log)


# -- A stream that goes well


async def test_bytes_pass_both_ways_and_each_half_closes_on_its_own(carries: Carrier, log: LogBook) -> None:
    """An end sent one way leaves the other way open, and both counts stand in the closed record."""
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await arrival.client.send_all(b"question")
        await arrival.client.send_eof()
        assert await read_all(arrival.target) == b"question"
        await arrival.target.send_all(b"a longer answer")
        await arrival.target.send_eof()
        assert await read_all(arrival.client) == b"a longer answer"
    assert log.kinds == [Kind.ADMITTED, Kind.OPENED, Kind.CLOSED]
    assert (log.end.fields["bytes_in"], log.end.fields["bytes_out"]) == (8, 15)
    assert arrival.finished == [(True, None, True)]
    assert len(carries.table) == 0


async def test_the_admission_is_written_before_anything_is_dialled(carries: Carrier, log: LogBook) -> None:
    """Whatever a stream touches, its record was there first."""
    await run_to_end(carries, ScriptedArrival(log))
    assert log.events.index(Kind.ADMITTED) < log.events.index("connect")


async def test_both_ends_are_released_before_the_record_of_the_end(carries: Carrier, log: LogBook) -> None:
    """A closed or cut record is true: nothing of the stream is left when it is written."""
    await run_to_end(carries, ScriptedArrival(log))
    assert log.events.index("finish") < log.events.index(Kind.CLOSED)


async def test_a_required_segment_waits_for_the_log_before_it_dials(carries: Carrier, log: LogBook) -> None:
    """With audit = "required" the dial comes after the record is durable."""
    log.hold = trio.Event()
    arrival = ScriptedArrival(log).of("tickets")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        assert log.events == ["commit"]
        log.hold.set()
        await end_both(arrival)
    assert log.events[:3] == ["commit", Kind.ADMITTED, "connect"]


async def test_waiting_for_streams_ends_when_their_records_are_written(
    carries: Carrier, log: LogBook
) -> None:
    """Whoever waits for cut streams to be gone may give a receipt for them."""
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        [live] = carries.table
        live.cut(Reason.LOCKED)
        await carries.until_gone([live])
        assert log.end.fields["reason"] == Reason.LOCKED


# -- Refused


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (Scene.snapshot, Reason.NO_GRANT),
        (Scene.lock, Reason.LOCKED),
        (Scene.revoke, Reason.REVOKED),
        (Scene.drain, Reason.DRAINING),
    ],
    ids=["no_grant", "locked", "revoked", "draining"],
)
async def test_a_refused_stream_has_one_denied_record_and_dials_nothing(
    prepare: Callable[[Scene], object],
    reason: Reason,
    scene: Scene,
    carries: Carrier,
    log: LogBook,
) -> None:
    """A refusal is recorded once, told to the near end, and nothing is connected for it."""
    prepare(scene)
    arrival = ScriptedArrival(log).of("vault" if reason is Reason.NO_GRANT else "wiki")
    await carries.carry(arrival)
    [denied] = log.records
    assert (denied.kind, denied.fields["reason"], denied.fields["verdict"]) == (Kind.DENIED, reason, "deny")
    assert arrival.refusal is not None
    assert arrival.refusal.reason is reason
    assert arrival.finished == [(False, reason, False)]
    assert "connect" not in log.events


async def test_draining_names_no_rule_that_would_have_let_it_in(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """The grant is not why a stream was refused."""
    scene.draining = True
    await carries.carry(ScriptedArrival(log))
    assert "rule" not in log.records[0].fields


async def test_a_cut_between_admission_and_decision_is_not_lost(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """A revocation that finds the stream in the table before it was decided on wins over the decision."""

    def revoke() -> None:
        for live in carries.table:
            live.cut(Reason.REVOKED, LOCK)

    scene.on_sight = revoke
    await carries.carry(ScriptedArrival(log))
    [denied] = log.records
    assert (denied.kind, denied.fields["reason"], denied.fields["rule"]) == (
        Kind.DENIED,
        Reason.REVOKED,
        LOCK,
    )


@pytest.mark.parametrize("state", ["fails", "gone"])
async def test_a_required_segment_is_refused_while_the_log_cannot_be_written(
    state: str, carries: Carrier, log: LogBook
) -> None:
    """No record, no stream: it is refused as audit_unavailable, and no admission is left without an end."""
    log.commits_fail, log.available = state == "fails", state != "gone"
    arrival = ScriptedArrival(log).of("tickets")
    await carries.carry(arrival)
    assert log.kinds == [Kind.DENIED]
    assert log.records[0].fields["reason"] == Reason.AUDIT_UNAVAILABLE
    assert arrival.refusal is not None
    assert "connect" not in log.events


async def test_other_segments_go_on_without_a_log(carries: Carrier, log: LogBook) -> None:
    """Best effort: the records that are lost are counted, the stream opens."""
    log.available = False
    await run_to_end(carries, ScriptedArrival(log))
    assert log.kinds == [Kind.ADMITTED, Kind.OPENED, Kind.CLOSED]


async def test_a_full_node_sheds(scene: Scene, log: LogBook) -> None:
    """Beyond the limit a stream is shed, not denied: capacity is no policy."""
    full = carrier(scene, log, max_streams=0)
    arrival = ScriptedArrival(log)
    await full.carry(arrival)
    assert log.kinds == [Kind.SHED]
    assert arrival.refusal is not None
    assert arrival.finished == [(False, Reason.LIMIT, False)]


async def test_a_stream_id_is_live_once(carries: Carrier, log: LogBook) -> None:
    """A peer that repeats an id takes nothing from the stream that has it."""
    first, second = ScriptedArrival(log), ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, first)
        await trio.testing.wait_all_tasks_blocked()
        await carries.carry(second)
        assert second.refusal is not None
        assert len(carries.table) == 1
        await end_both(first)
    assert log.end.kind is Kind.CLOSED


# -- Cut


@pytest.mark.parametrize("service", ["wiki", "tickets"])
@pytest.mark.parametrize("delay", range(30))
async def test_a_cut_at_any_instant_leaves_exactly_one_end(
    service: str, delay: int, carries: Carrier, log: LogBook
) -> None:
    """From admission on, wherever a cut finds a stream, one cut record follows and both ends are released."""
    arrival = ScriptedArrival(log).of(service)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        nursery.start_soon(arrival.client.send_all, b"x")
        while not len(carries.table):
            await trio.lowlevel.checkpoint()
        [live] = carries.table
        for _ in range(delay):
            await trio.lowlevel.checkpoint()
        live.cut(Reason.LOCKED, LOCK)
    assert log.end.fields["reason"] == Reason.LOCKED
    assert log.end.fields["rule"] == LOCK
    assert [(reason, clean) for _, reason, clean in arrival.finished] == [(Reason.LOCKED, False)]
    assert len(carries.table) == 0


async def test_a_stream_cut_while_it_connects_is_told_why(carries: Carrier, log: LogBook) -> None:
    """What was not open yet can still be refused in words."""
    arrival = ScriptedArrival(log, on_connect=forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        [live] = carries.table
        live.cut(Reason.LOCKED, LOCK)
    assert arrival.refusal is not None
    assert (arrival.refusal.reason, arrival.refusal.rule) == (Reason.LOCKED, LOCK)
    assert log.kinds == [Kind.ADMITTED, Kind.CUT]


async def test_what_connecting_brought_to_light_is_judged_before_the_stream_opens(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """A lock that arrived during the dial ends the stream before it counts as open, and its far end is closed."""

    async def lock(live: Live) -> None:
        scene.lock()

    arrival = ScriptedArrival(log, on_connect=lock)
    await carries.carry(arrival)
    assert log.kinds == [Kind.ADMITTED, Kind.CUT]
    assert arrival.finished == [(True, Reason.LOCKED, False)]


async def test_nothing_passes_once_a_stream_is_cut(carries: Carrier, log: LogBook) -> None:
    """Bytes that were on their way when the cut came stay here."""
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        [live] = carries.table
        nursery.start_soon(arrival.client.send_all, b"late")
        live.cut(Reason.LOCKED)
    assert log.end.fields["bytes_in"] == 0


async def test_time_that_passed_in_sleep_is_judged_before_the_next_byte(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """After the machine wakes up no byte passes under a certificate that ended meanwhile."""
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        scene.clock.ahead += 2 * HOUR
        await arrival.client.send_all(b"late")
    assert log.end.fields["reason"] == Reason.EXPIRED
    assert log.end.fields["bytes_in"] == 0


async def test_only_streams_that_need_the_log_end_without_it(carries: Carrier, log: LogBook) -> None:
    """While the log cannot be written, live streams of required segments are cut and the others go on."""
    wiki = ScriptedArrival(log)
    tickets = ScriptedArrival(log, subject=subject(stream=b"other-stream-16b")).of("tickets")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, wiki)
        nursery.start_soon(carries.carry, tickets)
        await trio.testing.wait_all_tasks_blocked()
        assert carries.cut_unrecorded() == []
        log.available = False
        [cut] = carries.cut_unrecorded()
        await carries.until_gone([cut])
        assert log.end.fields["service"] == "tickets"
        assert log.end.fields["reason"] == Reason.AUDIT_UNAVAILABLE
        assert len(carries.table) == 1
        await end_both(wiki)


async def test_a_limit_that_was_changed_holds_for_the_next_stream(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """A reload changes limits for streams from then on."""
    carries.reconfigure(Limits(lifetime=SECOND), 1)
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        scene.clock.ahead += SECOND
        carries.table.overdue(scene.clock.boot())
    assert log.end.fields["reason"] == Reason.LIFETIME


# -- Quotas


def limited(quota: Quota) -> Policy:
    """The usual policy, with a quota of the agent."""
    one = policy()
    return replace(one, agents={"researcher": replace(one.agents["researcher"], quota=quota)})


async def test_a_quota_of_streams_refuses_with_its_reason(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """limit; and there is room again when one has ended."""
    scene.policy = limited(Quota(1, None, None))
    async with trio.open_nursery() as nursery:
        first, second = (
            ScriptedArrival(log),
            ScriptedArrival(log, subject=subject(stream=b"another-16-bytes")),
        )
        nursery.start_soon(carries.carry, first)
        await trio.testing.wait_all_tasks_blocked()
        await carries.carry(second)
        assert second.refusal is not None
        assert (second.refusal.reason, second.refusal.line) == (
            Reason.LIMIT,
            policy().agents["researcher"].line,
        )
        assert "streams of agent researcher" in second.refusal.hint
        await end_both(first)
    third = ScriptedArrival(log, subject=subject(stream=b"a-third-16-bytes"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, third)
        await trio.testing.wait_all_tasks_blocked()
        assert third.refusal is None
        await end_both(third)


async def test_a_quota_of_bytes_cuts_the_stream_that_passes_too_many(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """What is over the limit does not pass."""
    scene.policy = limited(Quota(None, None, Window(4, MINUTE)))
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await arrival.client.send_all(b"four")
        assert await arrival.target.receive_some(10) == b"four"
        await arrival.client.send_all(b"!")
    assert log.end.fields["reason"] == Reason.LIMIT


# -- Broken


async def test_the_reason_of_a_peers_reset_is_ours_too(carries: Carrier, log: LogBook) -> None:
    """The peer's word for a cut stands in our record at once."""
    arrival = ScriptedArrival(log)
    arrival.near_fault = Reason.PEER_UNREACHABLE
    arrival.break_reading(ResetByPeer("locked"))
    await carries.carry(arrival)
    assert log.end.fields["reason"] == Reason.LOCKED


async def test_what_a_peer_cut_is_counted_when_its_statement_arrives(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """The peer heard of the lock first and cut our stream: our receipt counts it all the same."""
    arrival = ScriptedArrival(log)
    arrival.break_reading(ResetByPeer("locked"))
    await carries.carry(arrival)
    scene.lock()
    assert apply(carries, scene) == {LOCK: 1}


async def test_what_a_peer_ended_for_another_reason_is_in_no_receipt(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """A stream that its target ended was not ended by the lock that comes a moment later."""
    arrival = ScriptedArrival(log)
    arrival.break_reading(ResetByPeer("target_unreachable"))
    await carries.carry(arrival)
    scene.lock()
    assert apply(carries, scene) == {}


async def test_a_caller_that_went_away_closes_its_stream(carries: Carrier, log: LogBook) -> None:
    """Nobody cut it: closed, but the far end must not take it for a clean end."""
    arrival = ScriptedArrival(log)
    arrival.break_reading(trio.BrokenResourceError())
    await carries.carry(arrival)
    assert log.end.kind is Kind.CLOSED
    assert arrival.finished == [(True, None, False)]


async def test_a_target_that_breaks_is_named(carries: Carrier, log: LogBook) -> None:
    """A reset of the far end is the far end's fault."""
    arrival = ScriptedArrival(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        await arrival.target.aclose()
        await trio.testing.wait_all_tasks_blocked()
        await arrival.client.send_all(b"anybody there?")
    assert log.end.fields["reason"] == Reason.TARGET_UNREACHABLE


async def test_a_peer_that_breaks_the_protocol_is_a_bad_request(carries: Carrier, log: LogBook) -> None:
    """Frames that do not belong in a stream end it."""
    arrival = ScriptedArrival(log)
    arrival.break_reading(RemoteError("frame type 9 does not belong here"))
    await carries.carry(arrival)
    assert log.end.fields["reason"] == Reason.BAD_REQUEST


async def test_a_silent_peer_is_unreachable_after_one_second(
    carries: Carrier, log: LogBook, autojump_clock: MockClock
) -> None:
    """Without a reason the record waits for the statement that explains it, but no longer than a second."""
    arrival = ScriptedArrival(log)
    arrival.near_fault = Reason.PEER_UNREACHABLE
    arrival.break_reading(trio.BrokenResourceError())
    await carries.carry(arrival)
    assert log.end.fields["reason"] == Reason.PEER_UNREACHABLE
    assert trio.current_time() == pytest.approx(STATEMENT_SECONDS)


async def test_the_statement_that_explains_a_silent_peer_is_the_reason(
    scene: Scene, carries: Carrier, log: LogBook, autojump_clock: MockClock
) -> None:
    """A peer that was locked goes silent first; the lock arrives, and is what the record names and a receipt counts."""
    arrival = ScriptedArrival(log)
    arrival.near_fault = Reason.PEER_UNREACHABLE
    arrival.break_reading(trio.BrokenResourceError())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.sleep(STATEMENT_SECONDS / 2)
        assert arrival.finished  # The caller does not wait with us.
        scene.lock()
        assert apply(carries, scene) == {LOCK: 1}
    assert (log.end.fields["reason"], log.end.fields["rule"]) == (Reason.LOCKED, LOCK)
    assert apply(carries, scene) == {}
    assert trio.current_time() == pytest.approx(STATEMENT_SECONDS / 2)


async def test_a_far_end_that_refuses_gives_its_reason_and_rule(carries: Carrier, log: LogBook) -> None:
    """The other node's refusal is ours, with its words."""

    async def refuse(live: Live) -> None:
        raise EndedError(Reason.DENIED, "no-wiki", "deny no-wiki", by_peer=True)

    arrival = ScriptedArrival(log, on_connect=refuse)
    await carries.carry(arrival)
    assert log.kinds == [Kind.ADMITTED, Kind.CUT]
    assert (log.end.fields["reason"], log.end.fields["rule"]) == (Reason.DENIED, "no-wiki")
    assert arrival.refusal is not None
    assert arrival.refusal.hint == "deny no-wiki"


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError])
async def test_a_near_end_that_left_before_it_heard_of_the_opening_costs_no_record(
    error: type[Exception], carries: Carrier, log: LogBook
) -> None:
    """The far end was connected by then: it is released, and the end is on record."""

    async def gone() -> None:
        raise error

    arrival = ScriptedArrival(log, on_opened=gone)
    await carries.carry(arrival)
    assert log.end.kind is Kind.CLOSED
    assert arrival.finished == [(True, None, False)]


# -- Cancelled, and bugs


@pytest.mark.parametrize("service", ["wiki", "tickets"])
@pytest.mark.parametrize("stage", ["commit", "connect", "opened", "splice"])
async def test_a_cancelled_daemon_leaves_no_admission_without_an_end(
    service: str, stage: str, carries: Carrier, log: LogBook
) -> None:
    """Where everything is cancelled from outside, each stream is recorded as cut, draining, and released."""
    arrival = ScriptedArrival(log).of(service)
    if stage == "commit":
        log.hold = trio.Event()
    elif stage == "connect":
        arrival.on_connect = forever
    elif stage == "opened":
        arrival.on_opened = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert log.end.fields["reason"] == Reason.DRAINING
    assert len(arrival.finished) == 1
    assert len(carries.table) == 0


@pytest.mark.parametrize("stage", ["connect", "opened", "splice"])
async def test_a_bug_is_raised_and_recorded(stage: str, carries: Carrier, log: LogBook) -> None:
    """An exception that nobody foresaw reaches the boundary's log, and the stream's end is on record."""

    async def stumble(*_: object) -> None:
        raise ZeroDivisionError

    arrival = ScriptedArrival(log)
    if stage == "connect":
        arrival.on_connect = stumble
    elif stage == "opened":
        arrival.on_opened = stumble
    else:
        arrival.break_reading(ZeroDivisionError())
    with pytest.raises((ZeroDivisionError, ExceptionGroup)):
        await carries.carry(arrival)
    assert log.end.kind is Kind.CUT
    assert len(arrival.finished) == 1
    assert len(carries.table) == 0


async def test_a_finish_that_fails_still_leaves_a_record(carries: Carrier, log: LogBook) -> None:
    """The record does not depend on how well the ends could be released."""

    async def stumble() -> None:
        raise ZeroDivisionError

    arrival = ScriptedArrival(log, on_finish=stumble)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_both, arrival)
        with pytest.raises(ZeroDivisionError):
            await carries.carry(arrival)
    assert log.of(*ENDS)
    assert len(carries.table) == 0


async def test_what_a_decision_read_stands_in_its_record(carries: Carrier, log: LogBook) -> None:
    """An admission holds the rule, the moment, the snapshot and the verified facts: enough to decide again."""
    arrival = ScriptedArrival(log)
    await run_to_end(carries, arrival)
    fields = log.of(Kind.ADMITTED)[0].fields
    assert (fields["verdict"], fields["rule"], fields["engine"]) == ("allow", "read-wiki", "1")
    assert fields["facts"] == {
        "id": str(arrival.request.session),
        "serials": ["ab", "cd"],
        "not_after": NOW + HOUR,
    }


@pytest.mark.parametrize("operations", [None, ("GET /api/**",)])
async def test_what_a_child_has_left_stands_in_its_record(
    scene: Scene, carries: Carrier, log: LogBook, operations: tuple[str, ...] | None
) -> None:
    """The policy does not say it: a decision that is made again needs it from here."""
    scene.lock()
    arrival = ScriptedArrival(log)
    child = new_id(bytes(16))
    left = Narrowing(frozenset({"wiki"}), operations, Wall(NOW + HOUR), (child,))
    arrival.request = replace(arrival.request, narrowing=left)
    await carries.carry(arrival)
    facts = log.of(Kind.DENIED)[0].fields["facts"]
    assert isinstance(facts, dict)
    assert facts["narrowing"] == {
        "services": ["wiki"],
        "operations": None if operations is None else list(operations),
        "not_after": NOW + HOUR,
        "children": [child],
    }


async def test_a_revoked_child_is_cut_and_its_parent_is_not(
    scene: Scene, carries: Carrier, log: LogBook
) -> None:
    """A revocation names it by its id, as it names a session."""
    child = new_id(bytes(16))
    left = Narrowing(frozenset({"wiki"}), None, Wall(NOW + HOUR), (child,))
    parents, childs = ScriptedArrival(log), ScriptedArrival(log, subject=subject(stream=b"child-stream-16b"))
    childs.request = replace(childs.request, narrowing=left)
    async with trio.open_nursery() as nursery:
        for one in (parents, childs):
            nursery.start_soon(carries.carry, one)
        await trio.testing.wait_all_tasks_blocked()
        scene.revoke("session", child)
        apply(carries, scene)
        await trio.testing.wait_all_tasks_blocked()
        assert [one.fields["stream"] for one in log.of(Kind.CUT)] == [childs.subject.stream]
        scene.revoke("session", SESSION)
        apply(carries, scene)
    assert len(log.of(Kind.CUT)) == 2


# -- Scripts


async def run_to_end(carries: Carrier, arrival: ScriptedArrival) -> None:
    """A stream that opens and whose both sides end at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carries.carry, arrival)
        await end_both(arrival)


async def end_both(arrival: ScriptedArrival) -> None:
    await arrival.client.send_eof()
    await arrival.target.send_eof()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def forever(live: Live) -> None:
    await trio.sleep_forever()


# -- Decisions made lately


async def test_a_repeated_decision_names_the_first(carries: Carrier, log: LogBook) -> None:
    """So that a record leads to what was looked at. A segment whose decisions last no time is asked anew."""
    first, second = ScriptedArrival(log), ScriptedArrival(log)
    second.subject = replace(second.subject, stream=new_id(bytes(15) + b"\1"))
    for arrival in (first, second):
        await run_to_end(carries, arrival)
    admitted = [one.fields["decision"] for one in log.records if one.kind is Kind.ADMITTED]
    assert [decision.get("first", "") for decision in admitted if isinstance(decision, dict)] == [
        "",
        first.subject.stream,
    ]
    assert (carries.cache.misses, carries.cache.hits) == (1, 1)
