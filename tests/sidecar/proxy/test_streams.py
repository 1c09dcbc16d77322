from dataclasses import dataclass, field, replace

import pytest

from pki.clock import HOUR, MINUTE, SECOND, Boot, Wall
from pki.ids import new_id
from sidecar.policy.decide import Request, decide
from sidecar.proxy.streams import FOREVER, MAX_RECENT, RECENT, Limits, Live, LiveTable
from sidecar.reasons import Reason
from sidecar.snapshot import LockInForce, Moment, Restrictions, RevocationInForce, Snapshot, Target
from tests.sidecar.policy.world import NOW, POLICY, fresh, later, policy_of, request, snapshot

BOOT = Boot(50 * SECOND)
"""Boot time when the tests begin."""

ALLOWED = snapshot(policy_of(POLICY))
WIKI, TICKETS = request(), request("tickets")


@dataclass
class Cancelled:
    """Counts how often a stream was cancelled, and with what reason it found itself."""

    seen: list[Reason | None] = field(default_factory=list)


def live(
    number: int = 0, asked: Request = WIKI, limits: Limits | None = None, cancelled: Cancelled | None = None
) -> Live:
    stream = Live(
        id=new_id(bytes(14) + number.to_bytes(2)),
        request=asked,
        limits=limits or Limits(half_close_idle=0),
        started=BOOT,
        cancel=lambda: None,
        active=BOOT,
        judge_by=FOREVER,
    )
    if cancelled is not None:
        stream.cancel = lambda: cancelled.seen.append(stream.reason)
    return stream


def table(*streams: Live) -> LiveTable:
    live_table = LiveTable()
    for stream in streams:
        assert live_table.admit(stream)
    return live_table


def locked(until: int = NOW + HOUR) -> Snapshot:
    lock = LockInForce("lock-1", Target("service", "wiki"), Wall(until), "alice", "")
    return snapshot(policy_of(POLICY), Restrictions([lock]))


def revoked(kind: str = "agent", value: str = "researcher") -> Snapshot:
    revocation = RevocationInForce("rev-1", Target(kind, value), "alice")
    return snapshot(policy_of(POLICY), Restrictions((), [revocation]))


def judge(
    live_table: LiveTable, seen: Snapshot = ALLOWED, moment: Moment | None = None, now: int = BOOT
) -> tuple[list[str], dict[str, int]]:
    """The ids of what is cut, and the count by rule."""
    ended, counts = live_table.redecide(seen, moment or fresh(), Boot(now))
    return [stream.id for stream in ended], counts


# -- admission


def test_load_counts_every_stream_at_the_node_it_leads_to() -> None:
    """Also one that is not open yet, and one that went to another node than it meant to."""
    first, second, moved = live(0), live(1), live(2)
    live_table = table(first, second, moved)
    live_table.rebind(moved, replace(WIKI, tool_node="tools-2"))
    assert live_table.by_tool_node() == {WIKI.tool_node: 2, "tools-2": 1}
    live_table.close(moved, BOOT)
    assert live_table.by_tool_node() == {WIKI.tool_node: 2}


def test_a_revocation_between_admission_and_decision_is_not_lost() -> None:
    """The stream is entered first, so the new snapshot finds it; the decision made before says yes and is too late."""
    stream = live()
    live_table = table(stream)
    assert decide(stream.request, ALLOWED, fresh()).allowed
    assert judge(live_table, revoked()) == ([stream.id], {"rev-1": 1})
    assert (stream.reason, stream.rule) == (Reason.REVOKED, "rev-1")


def test_a_revocation_before_admission_is_seen_by_the_decision() -> None:
    """The other order: the table had nothing to cut, and the decision says no."""
    live_table = LiveTable()
    assert judge(live_table, revoked()) == ([], {})
    assert live_table.admit(live())
    assert decide(WIKI, revoked(), fresh()).reason is Reason.REVOKED


def test_an_id_that_is_live_is_not_admitted_twice() -> None:
    """A peer that repeats itself; and giving the second one up leaves the first."""
    first, second = live(1), live(1)
    live_table = table(first)
    assert live_table.admit(second) is False
    live_table.close(second, BOOT)
    assert live_table.find(first.id) is first
    assert len(live_table) == 1


def test_a_closed_stream_is_gone() -> None:
    """Closing again is nothing."""
    stream = live()
    live_table = table(stream, live(1))
    for _ in range(2):
        live_table.close(stream, BOOT)
        assert live_table.find(stream.id) is None
        assert [each.id for each in live_table] == [live(1).id]


def test_the_table_may_change_while_it_is_walked() -> None:
    """Whoever walks it may close streams."""
    live_table = table(*(live(n) for n in range(3)))
    for stream in live_table:
        live_table.close(stream, BOOT)
    assert len(live_table) == 0
    assert live_table.next_deadline() is None


# -- cuts


def test_the_reason_is_set_before_the_scope_is_cancelled() -> None:
    """Whoever wakes up knows why."""
    cancelled = Cancelled()
    stream = live(cancelled=cancelled)
    assert stream.cut(Reason.LOCKED, "lock-1") is True
    assert cancelled.seen == [Reason.LOCKED]


def test_a_stream_ends_once() -> None:
    """The first reason stays."""
    cancelled = Cancelled()
    stream = live(cancelled=cancelled)
    live_table = table(stream)
    judge(live_table, locked())
    assert stream.cut(Reason.IDLE) is False
    assert judge(live_table, revoked()) == ([], {})
    assert (stream.reason, stream.rule, cancelled.seen) == (Reason.LOCKED, "lock-1", [Reason.LOCKED])


def test_only_what_a_restriction_hits_is_cut() -> None:
    """Every stream of the locked service, and no other."""
    hit = [live(n) for n in range(3)]
    spared = live(9, TICKETS)
    ended, counts = judge(table(*hit, spared), locked())
    assert sorted(ended) == sorted(stream.id for stream in hit)
    assert counts == {"lock-1": 3}
    assert spared.reason is None


def test_a_stream_is_judged_by_what_is_known_of_it_now() -> None:
    """When the tool's node is known, its certificate stands under the stream too."""
    stream = live()
    live_table = table(stream, live(1))
    live_table.rebind(stream, replace(WIKI, serials=(*WIKI.serials, "ef")))
    assert judge(live_table, revoked("serial", "ef")) == ([stream.id], {"rev-1": 1})
    live_table.close(stream, BOOT)
    assert len(live_table) == 1


# -- time


def test_a_boundary_in_wall_time_is_one_in_boot_time() -> None:
    """No clock step can move it once it is set."""
    stream = live()
    live_table = table(stream)
    assert live_table.next_deadline() == FOREVER
    judge(live_table)
    assert stream.judge_by == BOOT + 60 * MINUTE
    assert live_table.next_deadline() == stream.judge_by
    judge(live_table, moment=later(fresh(), 20 * MINUTE), now=BOOT + 20 * MINUTE)
    assert stream.judge_by == BOOT + 60 * MINUTE


def test_one_stream_alone_is_judged_like_all() -> None:
    """When something was learned of it, or its deadline came: cut, or put off to its next boundary."""
    stream, other = live(1), live(2)
    live_table = table(stream, other)
    assert live_table.judge(stream, ALLOWED, fresh(), BOOT) is True
    assert (stream.judge_by, other.judge_by) == (BOOT + 60 * MINUTE, FOREVER)
    assert live_table.judge(stream, locked(), fresh(), BOOT) is False
    assert (stream.reason, stream.rule, other.reason) == (Reason.LOCKED, "lock-1", None)
    assert live_table.judge(stream, ALLOWED, fresh(), BOOT) is False


def test_at_its_boundary_a_stream_is_cut() -> None:
    """The certificates under it expire, and nothing else happened."""
    stream = live()
    live_table = table(stream)
    judge(live_table)
    passed = stream.judge_by - BOOT
    assert judge(live_table, moment=later(fresh(), passed - 1), now=stream.judge_by - 1) == ([], {})
    assert judge(live_table, moment=later(fresh(), passed), now=stream.judge_by) == ([stream.id], {"": 1})
    assert stream.reason is Reason.EXPIRED


def test_a_wall_clock_set_ahead_cuts_at_the_next_judgement() -> None:
    """What permits ends by the later of wall and floor."""
    stream = live()
    live_table = table(stream)
    ahead = replace(fresh(), wall=Wall(NOW + 2 * HOUR))
    assert judge(live_table, moment=ahead) == ([stream.id], {"": 1})


def test_a_stream_that_time_cannot_end_is_judged_when_something_changes() -> None:
    """Never by itself."""
    asked = replace(WIKI, not_after=Wall(2**62))
    stream = live(asked=asked)
    live_table = table(stream)
    judge(live_table)
    assert stream.judge_by > BOOT + 1_000 * HOUR


def test_the_earliest_boundary_is_the_next_deadline() -> None:
    """Of streams that are not ending already: those would keep the shell awake for nothing."""
    soon, late = live(1, replace(WIKI, not_after=Wall(NOW + MINUTE))), live(2)
    live_table = table(soon, late)
    judge(live_table)
    assert live_table.next_deadline() == BOOT + MINUTE
    soon.cut(Reason.LOCKED)
    assert live_table.next_deadline() == BOOT + 60 * MINUTE


@pytest.mark.parametrize(
    ("limits", "state", "after", "reason"),
    [
        (Limits(lifetime=HOUR), {}, HOUR, Reason.LIFETIME),
        (Limits(lifetime=HOUR), {"active": BOOT + HOUR - 1}, HOUR, Reason.LIFETIME),
        (Limits(idle=MINUTE), {"is_open": True}, MINUTE, Reason.IDLE),
        (Limits(idle=MINUTE), {"is_open": True, "active": BOOT + 5}, MINUTE + 5, Reason.IDLE),
        (Limits(half_close_idle=SECOND), {"half_closed": True}, SECOND, Reason.IDLE),
    ],
    ids=["lifetime", "busy-lifetime", "idle", "was-active", "half-closed"],
)
def test_a_stream_ends_at_its_own_limits(
    limits: Limits, state: dict[str, object], after: int, reason: Reason
) -> None:
    """At the limit, not before, and activity puts the idle ones off."""
    stream = live(limits=limits)
    for name, value in state.items():
        setattr(stream, name, value)
    live_table = table(stream)
    assert live_table.overdue(Boot(BOOT + after - 1)) == []
    assert live_table.overdue(Boot(BOOT + after)) == [stream]
    assert live_table.overdue(Boot(BOOT + after)) == []
    assert stream.reason is reason


@pytest.mark.parametrize(
    ("limits", "state"),
    [
        (Limits(0, 0, 0), {"is_open": True, "half_closed": True}),
        (Limits(idle=MINUTE, half_close_idle=0), {"is_open": False}),
        (Limits(half_close_idle=MINUTE), {"is_open": True}),
    ],
    ids=["none", "not-open-yet", "not-half-closed"],
)
def test_a_limit_that_is_not_set_or_not_reached_ends_nothing(
    limits: Limits, state: dict[str, object]
) -> None:
    """Zero is none; a stream still being opened has other deadlines."""
    stream = live(limits=limits)
    for name, value in state.items():
        setattr(stream, name, value)
    assert table(stream).overdue(Boot(BOOT + 1_000 * HOUR)) == []


# -- cuts by the peer


@pytest.mark.parametrize("seen", [locked(), revoked()], ids=["locked", "revoked"])
def test_a_stream_the_peer_cut_first_is_counted_in_our_receipt(seen: Snapshot) -> None:
    """It heard of the statement a moment before us; the stream died of it here as well. Counted once."""
    stream = live()
    live_table = table(stream)
    live_table.close(stream, BOOT, by_peer=True)
    rule = "lock-1" if seen.restrictions.locks else "rev-1"
    assert judge(live_table, seen, now=BOOT + RECENT - 1) == ([], {rule: 1})
    assert judge(live_table, seen, now=BOOT + RECENT - 1) == ([], {})


def test_a_stream_the_peer_cut_waits_for_its_reason() -> None:
    """A judgement that finds none keeps it for the next."""
    stream = live()
    live_table = table(stream)
    live_table.close(stream, BOOT, by_peer=True)
    assert judge(live_table, now=BOOT + SECOND) == ([], {})
    assert judge(live_table, locked(), now=BOOT + 2 * SECOND) == ([], {"lock-1": 1})


def test_a_cut_of_long_ago_had_another_reason() -> None:
    """And one for which time or policy speaks now was no stop's."""
    for number, (seen, moment, now) in enumerate(
        [
            (locked(), fresh(), BOOT + RECENT),
            (ALLOWED, later(fresh(), 2 * HOUR), BOOT + SECOND),
        ]
    ):
        stream = live(number)
        live_table = table(stream)
        live_table.close(stream, BOOT, by_peer=True)
        assert judge(live_table, seen, moment, now) == ([], {})


def test_a_stream_that_ended_by_itself_is_not_counted() -> None:
    """Only what the peer cut."""
    stream = live()
    live_table = table(stream)
    live_table.close(stream, BOOT)
    assert judge(live_table, locked()) == ([], {})


def test_cuts_by_peers_are_remembered_within_bounds() -> None:
    """A peer that cuts without end fills nothing."""
    live_table = LiveTable()
    for number in range(MAX_RECENT + 5):
        stream = live(number)
        live_table.admit(stream)
        live_table.close(stream, BOOT, by_peer=True)
    assert judge(live_table, locked()) == ([], {"lock-1": MAX_RECENT})
