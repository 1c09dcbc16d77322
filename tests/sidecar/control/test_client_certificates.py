import base64
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette

from pki import chain as chains
from pki import svid
from pki.certificate import read
from pki.clock import HOUR, Wall
from sidecar.control.agent import agent_app
from sidecar.peercred import PeerCred
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.local_certificate import Pin, pin_of
from sidecar.session.cgroup import SessionCgroup
from sidecar.session.sessions import Child
from tests.authority import NOW, new_key
from tests.nodes import another
from tests.sidecar.ca.world import POLICY
from tests.sidecar.control.world import ROOT, Station, ask, message, station, with_policy
from tests.statements import Mint

RESEARCHER = PeerCred(pid=7, uid=1001, gid=1001)
OTHER = PeerCred(pid=8, uid=1002, gid=1002)
MTLS = POLICY.replace("listen = 15001", 'listen = 15001\ncallers = "mtls"')

MORE = """
[services.crm]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8009"

[[bindings]]
agent = "researcher"
service = "crm"
listen = 15009
callers = "mtls"
"""


@pytest.fixture
async def node(tmp_path: Path) -> Station:
    node = station(tmp_path, Mint())
    await with_policy(node, MTLS)
    return node


@pytest.fixture
def app(node: Station) -> Starlette:
    return agent_app(node)


async def path_of_new_session(app: Starlette) -> str:
    status, body = await ask(app, "POST", "/v1/sessions", {"agent": "researcher"}, caller=RESEARCHER)
    assert status == 201, body
    assert body["services"]["wiki"] == "localhost:15001"
    return f"/v1/sessions/{body['session']}/client-certificates"


def wanted(service: str = "wiki") -> dict[str, str]:
    return {"service": service, "csr": base64.b64encode(svid.request(new_key())).decode()}


async def test_a_session_gets_a_certificate_for_a_binding_that_asks_for_one(
    node: Station, app: Starlette
) -> None:
    """For its key, pinned to session and binding, for as long as the session's own; and what to check ours by."""
    path = await path_of_new_session(app)
    assert (await ask(app, "GET", path, caller=RESEARCHER))[1]["services"] == ["wiki"]
    key = new_key()
    csr = base64.b64encode(svid.request(key)).decode()
    status, body = await ask(app, "POST", path, {"service": "wiki", "csr": csr}, caller=RESEARCHER)
    assert status == 200, body
    [session] = node.sessions
    leaf = read(chains.from_pem(body["certificate"].encode())[0])
    assert leaf.key == key.public_key()
    assert pin_of(leaf, NOW) == Pin("researcher", "wiki", session.id.session)
    assert leaf.not_after == body["not_after"] == session.identity.not_after
    assert chains.from_pem(body["roots"].encode()) == node.member.bundle.roots


async def test_a_binding_that_the_kernel_tells_needs_none(node: Station, app: Starlette) -> None:
    """None of this session's bindings asks any more: the policy changed."""
    path = await path_of_new_session(app)
    await with_policy(node, POLICY, sequence=2)
    assert (await ask(app, "GET", path, caller=RESEARCHER))[1]["services"] == []
    said = await ask(app, "POST", path, wanted(), caller=RESEARCHER)
    assert message(said) == 'agent researcher: no binding to wiki with callers = "mtls"'


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_another_user_gets_none(method: str, app: Starlette) -> None:
    """A session's certificates are its user's, and root's."""
    path = await path_of_new_session(app)
    body = wanted() if method == "POST" else None
    assert "you have no such session" in message(await ask(app, method, path, body, caller=OTHER))
    assert (await ask(app, method, path, body))[0] == 200


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"service": "wiki"}, "csr"),
        ({"service": "wiki", "csr": "%"}, "client certificate"),
        ({"service": "wiki", "csr": base64.b64encode(b"junk").decode()}, "not a readable PKCS #10 request"),
        ({"service": "w" * 64, "csr": ""}, "service"),
        ({**wanted(), "more": 1}, "more"),
    ],
    ids=["no key", "not base64", "not a request", "a long name", "a stranger"],
)
async def test_a_request_of_another_shape_is_refused(body: object, why: str, app: Starlette) -> None:
    """With what is wrong."""
    path = await path_of_new_session(app)
    assert why in message(await ask(app, "POST", path, body, caller=RESEARCHER))


OWN, OTHERS, ENDED = 77, 78, 79
"""Cgroups: that of the session, another session's, and one whose session has ended."""


@pytest.mark.parametrize(
    ("has_cgroup", "caller", "cgroup", "is_given"),
    [
        (True, RESEARCHER, OWN, True),
        (True, RESEARCHER, None, False),
        (True, RESEARCHER, 1, False),
        (True, RESEARCHER, OTHERS, False),
        (True, RESEARCHER, ENDED, False),
        (True, ROOT, None, True),
        (False, RESEARCHER, 1, True),
        (False, RESEARCHER, OTHERS, False),
        (False, RESEARCHER, ENDED, False),
    ],
)
async def test_only_who_is_taken_for_the_session_gets_its_certificate(  # noqa: PLR0917 - a row of a table
    node: Station, app: Starlette, has_cgroup: bool, caller: PeerCred, cgroup: int | None, is_given: bool
) -> None:
    """A process of the same uid would else walk into a session with a cgroup from outside, or from its sibling."""
    path = await path_of_new_session(app)
    [session] = node.sessions
    other = SessionCgroup(another(1), Path("/cgroup/other"), OTHERS)
    node.sessions.add(replace(await node.life.start("researcher", 1001), cgroup=other))
    if has_cgroup:
        node.sessions.add(replace(session, cgroup=SessionCgroup(session.name, Path("/cgroup/own"), OWN)))
    node.sessions.claimed = frozenset({OWN, OTHERS, ENDED})
    status, said = await ask(app, "POST", path, wanted(), caller=caller, cgroup=cgroup)
    assert (status == 200) is is_given, said


async def test_a_child_gets_its_own_and_not_its_parents(node: Station, app: Starlette) -> None:
    """Pinned to the child, for no service and no time that it has not; its parent's would undo its narrowing."""
    await with_policy(node, MTLS + MORE, sequence=2)
    await path_of_new_session(app)
    [session] = node.sessions
    ends = Wall(session.identity.not_after - HOUR // 2)
    narrowing = Narrowing(frozenset({"wiki"}), None, ends, (another(2),))
    cgroup = SessionCgroup(another(2), Path("/cgroup/child"), OWN)
    child = Child(session.name, (), narrowing, session.started, session.trace, cgroup)
    node.sessions.add_child(child)
    node.sessions.claimed = frozenset({OWN})
    path = f"/v1/sessions/{child.id}/client-certificates"
    status, body = await ask(app, "POST", path, wanted(), caller=RESEARCHER, cgroup=OWN)
    assert (status, body["not_after"]) == (200, ends), body
    leaf = read(chains.from_pem(body["certificate"].encode())[0])
    assert pin_of(leaf, NOW) == Pin("researcher", "wiki", child.id)
    refused = await ask(app, "POST", path, wanted("crm"), caller=RESEARCHER, cgroup=OWN)
    assert "no binding to crm" in message(refused)
    refused = await ask(app, "POST", path, wanted(), caller=RESEARCHER)
    assert "only a process of that very session" in message(refused)
    parents = f"/v1/sessions/{session.name}/client-certificates"
    refused = await ask(app, "POST", parents, wanted(), caller=RESEARCHER, cgroup=OWN)
    assert "you have no such session" in message(refused)
