from dataclasses import replace

from pki.clock import Wall
from sidecar.policy.decide import Decision
from sidecar.policy.model import Verdict
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.proxy.carry import Sight
from sidecar.proxy.ruling import ENGINE, ruling, spelled
from sidecar.reasons import Reason
from tests.authority import NOW
from tests.datapath import Scene, request

YES = Decision(Verdict.ALLOW, rule="read-wiki", line=7)


class FixedClock:
    def wall(self) -> Wall:
        return NOW


def sight() -> Sight:
    scene = Scene(clock=FixedClock())  # type: ignore[arg-type] # all of a clock that a moment needs
    return Sight(scene.snapshot(), scene.moment())


def test_a_ruling_holds_all_that_was_read() -> None:
    """Request, verified facts, moment, snapshot and engine."""
    seen = sight()
    made = ruling(request(), YES, seen)
    assert (made.verdict, made.reason, made.rule, made.engine) == ("allow", None, "read-wiki", ENGINE)
    assert made.decision == {"service": "wiki", "tool_node": "tools-1", "line": 7}
    assert made.moment == {"wall": NOW, "floor": NOW, "as_of": NOW}
    assert made.snapshot == seen.snapshot.digest
    assert made.facts["id"] == str(request().session)


def test_a_refusal_and_what_would_be_one_are_told_apart() -> None:
    """An observed segment passes, and says what it would have refused for."""
    no = Decision(Verdict.DENY, Reason.NO_GRANT)
    assert ruling(request(), no, sight()).verdict == "deny"
    observed = ruling(request(), replace(YES, would_deny=Reason.DENIED), sight())
    assert (observed.verdict, observed.reason) == ("would_deny", Reason.DENIED)


def test_what_a_child_has_left_is_a_fact() -> None:
    """With it the decision can be made again."""
    left = Narrowing(frozenset({"wiki", "echo"}), ("GET /a",), NOW, ("c1",))
    facts = ruling(replace(request(), narrowing=left), YES, sight()).facts
    assert facts["narrowing"] == {
        "services": ["echo", "wiki"],
        "operations": ["GET /a"],
        "not_after": NOW,
        "children": ["c1"],
    }
    whole = ruling(replace(request(), narrowing=replace(left, operations=None)), YES, sight()).facts
    assert whole["narrowing"] == {**facts["narrowing"], "operations": None}


def test_an_operation_is_spelled_by_its_names() -> None:
    """And the predicates that hold, sorted; a stream has none."""
    assert spelled(None) == {}
    assert spelled(Operation("GET", "/a")) == {"method": "GET", "name": "/a"}
    assert spelled(Operation("GET", "/a", frozenset({"b", "a"})))["holds"] == ["a", "b"]
