import os
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette

from sidecar.control.agent import agent_app
from sidecar.peercred import PeerCred
from sidecar.session import starts
from sidecar.session.cgroup import SessionCgroup
from tests.sidecar.ca.world import POLICY
from tests.sidecar.control.world import Station, ask, message, station, with_policy
from tests.statements import Mint

RESEARCHER = PeerCred(pid=7, uid=1001, gid=1001)
OTHER = PeerCred(pid=8, uid=1002, gid=1002)


@pytest.fixture
async def node(tmp_path: Path) -> Station:
    node = station(tmp_path, Mint())
    await with_policy(node, POLICY)
    return node


@pytest.fixture
def app(node: Station) -> Starlette:
    return agent_app(node)


async def started(app: Starlette, caller: PeerCred = RESEARCHER) -> str:
    status, body = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=caller)
    assert status == 201, body
    return str(body["session"])


async def test_the_agents_user_starts_a_session(app: Starlette) -> None:
    """And reads what its processes need: entrances, trace, end."""
    _, body = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=RESEARCHER)
    assert body["services"] == {"wiki": "127.0.0.1:15001"}
    assert (body["agent"], body["uid"], body["attribution"]) == ("researcher", 1001, "uid")
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", body["traceparent"])


async def test_root_starts_a_session_for_the_agents_user(app: Starlette) -> None:
    """The session is the agent's, not root's."""
    _, body = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"})
    assert body["uid"] == 1001


async def test_another_user_starts_none(node: Station, app: Starlette) -> None:
    """One agent's user must not be able to act as another agent."""
    answer = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=OTHER)
    assert message(answer) == "agent researcher: runs as uid 1001, and you are uid 1002"
    assert len(node.sessions) == 0


async def test_an_agent_that_no_policy_names_starts_none(app: Starlette) -> None:
    """The refusal says where to look."""
    answer = await ask(app, "POST", "/v1/sessions", {"agent": "stranger"}, caller=RESEARCHER)
    assert message(answer).startswith("agent stranger: not in the policy")


async def test_with_the_ca_away_the_answer_is_that_it_is_unreachable(node: Station, app: Starlette) -> None:
    """Not a refusal: trying again later may help."""
    node.down = True
    status, body = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=RESEARCHER)
    assert (status, body["error"]["reason"]) == (503, "unreachable")


async def test_callers_see_their_own_sessions(app: Starlette) -> None:
    """Root and the daemon's user see all; anybody else nobody's but their own."""
    session = await started(app)
    for caller, seen in ((RESEARCHER, [session]), (OTHER, []), (PeerCred(1, os.geteuid(), 0), [session])):
        _, body = await ask(app, "GET", "/v1/sessions", caller=caller)
        assert [one["session"] for one in body["sessions"]] == seen


async def test_a_session_is_ended_by_its_own_user(node: Station, app: Starlette) -> None:
    """Here at once, and by a revocation for everybody else."""
    session = await started(app)
    answer = await ask(app, "DELETE", f"/v1/sessions/{session}", caller=OTHER)
    assert message(answer) == f"session {session}: you have no such session on this node"
    await node.outbox.deliver()  # the receipt of the policy
    status, body = await ask(app, "DELETE", f"/v1/sessions/{session}", caller=RESEARCHER)
    assert (status, body["session"]) == (200, session)
    assert len(node.sessions) == 0
    assert await node.outbox.deliver() == 1
    assert [str(one.target) for one in node.member.snapshot.restrictions.revocations] == [f"id:{body['id']}"]


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, {}, {"agent": 7}, {"agent": "x" * 64}, {"agent": "a", "uid": 0}]
)
async def test_what_any_user_may_send_costs_one_refusal(app: Starlette, body: object) -> None:
    """No traceback in the log, and nothing that the schema does not name."""
    answer = await ask(app, "POST", "/v1/sessions", body, caller=OTHER)
    assert answer[0] == 400


async def test_no_session_starts_under_the_daemons_own_user(
    node: Station, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever name a policy gives it: it would be no agent, but whoever may do all."""
    monkeypatch.setattr(node, "uid_of", lambda _: os.geteuid())
    answer = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"})
    assert "the daemon's own; give it a user of its own" in message(answer)
    assert len(node.sessions) == 0


async def test_a_user_has_so_many_sessions_and_no_more(
    app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs the CA a certificate an hour; those that ended do not count."""
    monkeypatch.setattr(starts, "MAX_LIVE", 2)
    first, _ = [await started(app) for _ in range(2)]
    answer = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=RESEARCHER)
    assert message(answer) == "uid 1001: has 2 sessions on this node already; end some"
    await ask(app, "DELETE", f"/v1/sessions/{first}", caller=RESEARCHER)
    await started(app)


async def test_only_root_says_which_cgroup_is_a_sessions(
    node: Station, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It made it, entered it, and may do so as often as it likes; anybody else could name a sibling's."""
    wanted = {"agent": "researcher", "made": "a" * 26}
    answer = await ask(app, "POST", "/v1/sessions", wanted, caller=RESEARCHER)
    assert "only root" in message(answer)
    assert "no cgroup of that name" in message(await ask(app, "POST", "/v1/sessions", wanted))
    monkeypatch.setattr(node.sessions, "adopt", lambda name: SessionCgroup(name, Path("/none"), 7))
    status, body = await ask(app, "POST", "/v1/sessions", wanted)
    assert (status, body["session"], body["attribution"]) == (201, "a" * 26, "cgroup")
    assert "no other session's" in message(await ask(app, "POST", "/v1/sessions", wanted))
