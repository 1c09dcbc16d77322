import pytest

from sidecar.policy.impact import Impact, impact
from sidecar.snapshot import Restrictions, Target
from tests.sidecar.policy.world import POLICY, SESSION, fresh, policy_of, request, snapshot

LIVE = (
    request(),
    request(),
    request("tickets", "tools-2"),
    request("tickets", "tools-1", agent="clerk"),
)
ALL = (
    ("clerk", "tickets", "action"),
    ("researcher", "tickets", "action"),
    ("researcher", "vault", "high-risk"),
    ("researcher", "wiki", "retrieval"),
)


def would(target: Target, *, for_good: bool = False) -> Impact:
    return impact(target, snapshot(policy_of(POLICY)), fresh(), LIVE, for_good=for_good)


@pytest.mark.parametrize(
    ("target", "streams", "paths"),
    [
        (Target("all"), {"wiki": 2, "tickets": 2}, ALL),
        (Target("segment", "action"), {"tickets": 2}, ALL[:2]),
        (Target("service", "wiki"), {"wiki": 2}, ALL[3:]),
        (Target("agent", "clerk"), {"tickets": 1}, ALL[:1]),
        (Target("node", "tools-2"), {"tickets": 1}, ALL[2:3]),
        (Target("node", "agents-1"), {"wiki": 2, "tickets": 2}, ALL[1:]),
        (Target("session", SESSION), {"wiki": 2, "tickets": 2}, ()),
        (Target("serial", "ab"), {"wiki": 2, "tickets": 2}, ()),
        (Target("operator", "alice"), {}, ()),
        (Target("agent", "nobody"), {}, ()),
    ],
    ids=str,
)
def test_a_stop_would_cut_what_it_hits_and_close_what_it_names(
    target: Target, streams: dict[str, int], paths: tuple[tuple[str, str, str], ...]
) -> None:
    """Live streams by service; of the policy's ways, those that no other node keeps open."""
    found = would(target)
    assert (found.streams, found.paths) == (streams, paths)
    if target.kind not in ("all", "segment", "service"):
        assert would(target, for_good=True) == found


def test_sessions_are_counted_once() -> None:
    """However many streams each of them has."""
    assert would(Target("all")).sessions == 2
    assert would(Target("agent", "clerk")).sessions == 1


def test_without_a_policy_nothing_is_open_that_could_be_closed() -> None:
    """And what is stopped already is not cut again by a shorter stop."""
    assert impact(Target("all"), snapshot(None), fresh(), (), for_good=False) == Impact({}, 0, ())


def test_asking_changes_nothing() -> None:
    """The snapshot that is in force is the one that was."""
    before = snapshot(policy_of(POLICY), Restrictions())
    digest = before.digest
    impact(Target("all"), before, fresh(), LIVE, for_good=False)
    assert (before.digest, before.restrictions.locks) == (digest, ())
