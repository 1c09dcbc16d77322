import pytest

from pki.clock import MINUTE, SECOND, Boot, Wall
from sidecar.audit import record
from sidecar.audit.record import Record, Requested, Role, Ruling, Subject
from sidecar.invalidation import watch
from sidecar.invalidation.watch import MAX_EVIDENCE, Found, Sign, Watch, sign_of
from sidecar.policy.model import Invalidation, Mode, Scope, Suspicion, Window
from sidecar.reasons import Reason
from sidecar.snapshot import Target
from tests.sidecar.policy.world import POLICY, policy_of, session

ID = str(session())
AT = Boot(1_000 * SECOND)
REFUSED = Sign(Suspicion.REFUSALS, "researcher", ID, "wiki", "agents-1", "s")


def rule(on: Suspicion = Suspicion.REFUSALS, lock: Scope = Scope.SESSION, count: int = 2) -> Invalidation:
    is_counted = on in (Suspicion.REFUSALS, Suspicion.MUTATIONS, Suspicion.ATTRIBUTION)
    over = Window(count, MINUTE) if is_counted else None
    agents = frozenset({"researcher"}) if is_counted else frozenset()
    return Invalidation("r", on, agents, over, lock, 10 * MINUTE, Mode.ENFORCE, 1)


def note(watching: Watch, sign: Sign, at: int, *rules: Invalidation) -> list[Found]:
    return watching.note(sign, rules or (rule(),), Boot(at))


def test_more_than_the_number_in_the_window_is_found_and_not_one_fewer() -> None:
    """Two are allowed, the third within a minute is one too many; with what it was seen in."""
    watching = Watch()
    assert note(watching, REFUSED, AT) == note(watching, REFUSED, AT + 1) == []
    [found] = note(watching, REFUSED, AT + MINUTE)
    assert (found.target, found.count, found.streams) == (Target("id", ID), 3, ("s", "s", "s"))


def test_what_is_older_than_the_window_does_not_count() -> None:
    """The first of three was more than a minute ago."""
    watching = Watch()
    for at in (AT, AT + MINUTE, AT + MINUTE + 1):
        assert note(watching, REFUSED, at) == []


def test_the_same_is_found_again_once_its_lock_would_be_over() -> None:
    """A loop of refusals makes one statement for each lock, not one for each refusal."""
    watching = Watch()
    found = [at for at in range(AT, AT + 21 * MINUTE, 10 * SECOND) if note(watching, REFUSED, at)]
    first = AT + 20 * SECOND
    assert found == [first, first + 10 * MINUTE, first + 20 * MINUTE]


def test_subjects_are_counted_apart() -> None:
    """Two sessions with two refusals each are two sessions with two refusals."""
    watching = Watch()
    other = Sign(Suspicion.REFUSALS, "researcher", str(session(node="agents-2")))
    assert [note(watching, one, AT) for one in (REFUSED, other, REFUSED, other)] == [[], [], [], []]
    assert note(watching, REFUSED, AT, rule(lock=Scope.AGENT)) == []


@pytest.mark.parametrize(
    ("on", "lock", "target"),
    [
        (Suspicion.REFUSALS, Scope.SESSION, Target("id", ID)),
        (Suspicion.MUTATIONS, Scope.AGENT, Target("agent", "researcher")),
        (Suspicion.ATTRIBUTION, Scope.NODE, Target("node", "agents-1")),
        (Suspicion.TOOL_DRIFT, Scope.SERVICE, Target("service", "wiki")),
        (Suspicion.AUDIT_GAP, Scope.NODE, Target("node", "agents-1")),
    ],
)
def test_each_rule_locks_what_its_finding_is_about(on: Suspicion, lock: Scope, target: Target) -> None:
    """By the rule's scope; another finding, another agent and an unknown subject are none of its business."""
    one = rule(on, lock, count=1)
    sign = Sign(on, "researcher", ID, "wiki", "agents-1")
    watching = Watch()
    found = [*note(watching, sign, AT, one), *note(watching, sign, AT + 1, one)]
    assert [each.target for each in found] == [target]
    unlike = Suspicion.CLONE if on is not Suspicion.CLONE else Suspicion.REFUSALS
    assert note(Watch(), Sign(unlike, "researcher", ID, "wiki", "agents-1"), AT, one) == []
    assert note(Watch(), Sign(on), AT, one) == []


def test_another_agent_is_not_counted() -> None:
    """A rule names whom it is about."""
    watching = Watch()
    for at in range(5):
        assert note(watching, Sign(Suspicion.REFUSALS, "clerk", ID), AT + at) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in a loop push out what was not heard of for longest; evidence is the newest of it."""
    monkeypatch.setattr(watch, "MAX_SUBJECTS", 2)
    watching = Watch()
    for n in range(2):
        note(watching, REFUSED, AT + n)
    for n in range(2):
        note(watching, Sign(Suspicion.REFUSALS, "researcher", f"{ID[:-1]}{n}"), AT)
    assert note(watching, REFUSED, AT + 2) == []
    many, fresh = rule(count=20), Watch()
    signs = [Sign(Suspicion.REFUSALS, "researcher", ID, stream=str(n)) for n in range(21)]
    found = [one for n, sign in enumerate(signs) for one in note(fresh, sign, AT + n, many)]
    assert [one.streams for one in found] == [tuple(map(str, range(21 - MAX_EVIDENCE, 21)))]


SUBJECT = Subject(stream="s", role=Role.AGENT, session="x", agent="researcher", service="wiki")
FACTS = {"id": ID}


def denied(reason: Reason, **facts: object) -> Record:
    ruling = Ruling(verdict="deny", reason=reason, facts=facts or FACTS)  # type: ignore[arg-type]  # of text
    return record.denied(Wall(1), SUBJECT, ruling)


def test_a_refusal_for_what_the_agent_does_is_a_sign() -> None:
    """A deny, no grant, a bad request: with the session that was judged."""
    policy = policy_of(POLICY)
    for reason in (Reason.DENIED, Reason.NO_GRANT, Reason.BAD_REQUEST, Reason.NARROWED, Reason.MISBOUND):
        seen = sign_of(denied(reason), policy, "agents-1")
        assert seen == Sign(Suspicion.REFUSALS, "researcher", ID, "wiki", "agents-1", "s")


@pytest.mark.parametrize(
    "reason", [Reason.LOCKED, Reason.REVOKED, Reason.STALE, Reason.LIMIT, Reason.DRAINING, Reason.EXPIRED]
)
def test_what_the_mesh_does_is_no_sign_of_the_agent(reason: Reason) -> None:
    """Else a lock would feed on its own refusals, and staleness would lock everybody."""
    assert sign_of(denied(reason), policy_of(POLICY), "agents-1") is None


def test_a_wrong_caller_is_a_sign_of_its_own() -> None:
    """No session is known, so none can be locked for it."""
    seen = sign_of(denied(Reason.WRONG_CALLER, uid=7), policy_of(POLICY), "agents-1")
    assert seen == Sign(Suspicion.ATTRIBUTION, "researcher", "", "wiki", "agents-1", "s")
    assert sign_of(denied(Reason.DENIED, id="spiffe://example.org/node/n"), policy_of(POLICY), "n") == Sign(
        Suspicion.REFUSALS, "researcher", "", "wiki", "n", "s"
    )


def test_what_changes_something_is_a_mutation() -> None:
    """A request by its class; a stream of a tcp service by that of its segment; the rest is none."""
    policy = policy_of(POLICY)
    ruling = Ruling(verdict="allow", facts=FACTS)
    for operation_class, what in (("mutate", Suspicion.MUTATIONS), ("read", None)):
        asked = Requested(request="r", operation_class=operation_class)
        seen = sign_of(record.request(Wall(1), SUBJECT, ruling, asked), policy, "agents-1")
        assert (seen and seen.what) == what
    for service, what in (("tickets", Suspicion.MUTATIONS), ("wiki", None), ("nowhere", None)):
        subject = Subject(stream="s", role=Role.AGENT, agent="researcher", service=service)
        seen = sign_of(record.admitted(Wall(1), subject, ruling), policy, "agents-1")
        assert (seen and seen.what) == what
    assert sign_of(record.opened(Wall(1), SUBJECT), policy, "agents-1") is None
