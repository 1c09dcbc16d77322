from pki.clock import Wall
from sidecar.audit.record import Kind, Record
from sidecar.observed import MAX_CAUSES, Observed


def passed(segment: str, reason: str, verdict: str = "would_deny") -> Record:
    return Record(Kind.REQUEST, Wall(1), {"segment": segment, "reason": reason, "verdict": verdict})


def test_what_would_have_been_refused_is_counted_by_segment_and_reason() -> None:
    """And nothing else: what is allowed or refused anyway says nothing of the mode."""
    seen = Observed()
    for one in (
        passed("retrieval", "no_grant"),
        passed("retrieval", "no_grant"),
        passed("retrieval", "stale"),
        passed("action", "no_grant"),
        passed("retrieval", "", "allow"),
        passed("retrieval", "locked", "deny"),
    ):
        seen.note(one)
    assert seen.of("retrieval") == {"no_grant": 2, "stale": 1}
    assert seen.of("action") == {"no_grant": 1}
    assert seen.of("vault") == {}


def test_causes_are_bounded() -> None:
    """Those that are known go on being counted."""
    seen = Observed()
    for number in range(MAX_CAUSES + 10):
        seen.note(passed(f"s{number}", "no_grant"))
    seen.note(passed("s0", "no_grant"))
    assert seen.of("s0") == {"no_grant": 2}
    assert seen.of(f"s{MAX_CAUSES}") == {}
