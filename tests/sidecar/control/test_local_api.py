import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from openapi_spec_validator.readers import read_from_filename
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from starlette.applications import Starlette
from starlette.routing import Route

from pki.clock import MINUTE, Wall
from pki.errors import LocalError
from pki.ids import new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.verify import Identity
from sidecar import wire
from sidecar.audit import record
from sidecar.audit.record import Caller, Role, Ruling, Subject
from sidecar.certify import CaAccess
from sidecar.control import agent, local_api
from sidecar.control.agent import agent_app
from sidecar.peercred import PeerCred
from sidecar.reasons import Reason
from sidecar.session import refusals
from sidecar.session.cgroup import SessionCgroup, SessionCgroups
from sidecar.session.life import Wish
from sidecar.session.sessions import Session
from tests.sidecar.control.world import Station, ask, message, station, with_policy
from tests.statements import Mint

ROOT = Path(__file__).parents[3]
SPEC: Mapping[str, Any]
SPEC, _ = read_from_filename(str(ROOT / "docs/local-api.openapi.yaml"))
REGISTRY = Registry().with_resource("urn:api", DRAFT202012.create_resource(SPEC))

RESEARCHER, OTHER = PeerCred(pid=7, uid=1001, gid=1001), PeerCred(pid=8, uid=1002, gid=1002)
ROOT_USER = PeerCred(pid=9, uid=0, gid=0)
NOBODYS, PIDFD = 999, 77
"""A cgroup that is no session's; a handle that a test gives out."""

SERVICES = "".join(
    f'[services.{name}]\nsegment = "retrieval"\nnodes = ["tools-1"]\ntarget = "127.0.0.1:80{number}"\n'
    for number, name in ((10, "wiki"), (11, "tickets"))
)
POLICY = f"""
{SERVICES}
[agents.researcher]
nodes = ["agents-1"]
uid = 1001

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[bindings]]
agent = "researcher"
service = "tickets"
listen = 15002

[[grants]]
id = "all"
agents = ["researcher"]
services = ["wiki", "tickets"]
"""


@dataclass
class Desk:
    """The socket of a node where sessions have cgroups. Each answer is compared with the document."""

    node: Station
    app: Starlette

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        inside: Session | int | None = None,
        caller: PeerCred = RESEARCHER,
    ) -> tuple[int, Any]:
        """What a process is told: in the cgroup of a session or child, or in none."""
        cgroup = inside.cgroup.id if isinstance(inside, Session) and inside.cgroup else inside
        assert not isinstance(cgroup, Session)
        status, said = await ask(self.app, method, path, body, caller=caller, cgroup=cgroup)
        OAS31Validator({"$ref": pointer(method, path, status)}, registry=REGISTRY).validate(said)
        return status, said

    async def refusal(self, method: str, path: str, body: object = None, **who: Any) -> str:
        answer = await self.ask(method, path, body, **who)
        assert answer[0] == 400, answer
        return message(answer)

    async def start(self, *, confined: bool = True) -> Session:
        """A session of the researcher."""
        return await self.node.life.start("researcher", 1001, Wish(PIDFD if confined else None))

    async def child(self, parent: Session, body: object = None) -> Session:
        status, said = await self.ask("POST", "/v1/children", body or {}, inside=parent)
        assert status == 201, said
        child = self.node.sessions.find(said["session"])
        assert child is not None
        return child

    def refused(self, session: Session | None, at: int, uid: int = 1001) -> None:
        """A stream of it (or of a caller that was no session) is refused."""
        cgroup = session.cgroup.id if session and session.cgroup else None
        subject = Subject(
            stream=new_id(bytes(16)),
            role=Role.AGENT,
            session=session.name if session else "",
            parents=session.parents if session else (),
            service="wiki",
        )
        ruling = Ruling(verdict="deny", reason=Reason.NO_GRANT, rule="r", hint="no grant")
        self.node.refusals.note(record.denied(Wall(at), subject, ruling, Caller("cgroup", uid, cgroup)))


def pointer(method: str, path: str, status: int) -> str:
    """Where the document has the schema of an answer."""
    bare = path.partition("?")[0]
    known = next(one for one in SPEC["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", one), bare))
    responses = SPEC["paths"][known][method.lower()]["responses"]
    which = str(status) if str(status) in responses else "default"
    named = responses[which].get("$ref")
    at = named or f"#/paths/{known.replace('/', '~1')}/{method.lower()}/responses/{which}"
    return f"urn:api{at}/content/application~1json/schema"


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionCgroups:
    """A plain directory in place of the mount; whoever is taken in leaves no trace there."""
    monkeypatch.setattr(SessionCgroup, "take_in", lambda *_: None)
    return SessionCgroups(tmp_path, owner=tmp_path.stat().st_uid)


@pytest.fixture
async def desk(tmp_path: Path, cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(local_api, "peer_pidfd", lambda *_: os.open("/", os.O_RDONLY))
    node = station(tmp_path, Mint(), cgroups)
    await with_policy(node, POLICY)
    return Desk(node, agent_app(node))


# -- The document


def test_the_document_is_openapi() -> None:
    """By the published schema of OpenAPI 3.1."""
    validate(SPEC)


async def test_the_document_has_every_call_and_no_other(desk: Desk) -> None:
    """With its method."""
    served = {
        (route.path, method)
        for route in desk.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    methods = {"get", "post", "put", "patch", "delete"}
    documented = {
        (path, method.upper()) for path, calls in SPEC["paths"].items() for method in calls.keys() & methods
    }
    assert documented == served


@pytest.mark.parametrize("asked", [agent.StartSession, local_api.StartChild], ids=lambda one: one.__name__)
def test_the_document_has_every_field_that_may_be_sent(asked: type[msgspec.Struct]) -> None:
    """With its default and its limits."""
    schema = SPEC["components"]["schemas"][asked.__name__]
    [mine] = msgspec.json.schema(asked)["$defs"].values()
    assert schema["properties"].keys() == mine["properties"].keys()
    assert schema.get("required", []) == mine.get("required", [])
    for name, field in mine["properties"].items():
        for limits in (field, *field.get("anyOf", [])):
            told = {
                key: limits[key] for key in ("maxLength", "maxItems", "minimum", "maximum") if key in limits
            }
            assert told.items() <= schema["properties"][name].items()


def test_what_an_operation_and_a_service_may_be_is_documented() -> None:
    """By the same limits as on the wire."""
    schemas = SPEC["components"]["schemas"]
    assert schemas["Operation"]["maxLength"] == wire.MAX_OPERATION_CHARS
    assert schemas["Session"]["properties"]["parents"]["maxItems"] == wire.MAX_CHILD_DEPTH
    assert f"At most {refusals.KEPT} of each" in SPEC["components"]["responses"]["Refusals"]["description"]
    words = set(re.findall(r"`(\w+)` \| ", (ROOT / "docs/local-api.md").read_text()))
    assert words >= schemas["StartChild"]["properties"].keys()


# -- My session, my bindings


async def test_a_process_learns_which_session_it_is_in(desk: Desk) -> None:
    """By its cgroup, else by its user."""
    confined, loose = await desk.start(), await desk.start(confined=False)
    for inside, session, known_by in (
        (confined, confined, "cgroup"),
        (NOBODYS, loose, "uid"),
        (None, loose, "uid"),
    ):
        _, said = await desk.ask("GET", "/v1/session", inside=inside)
        assert (said["session"], said["attribution"]) == (session.name, known_by)
        assert said["services"] == {"wiki": "127.0.0.1:15001", "tickets": "127.0.0.1:15002"}


async def test_a_process_in_no_session_is_told_what_to_do(desk: Desk) -> None:
    """And one of several that cannot be told apart."""
    assert "in no live session; run: lockgate session exec" in await desk.refusal("GET", "/v1/session")
    await desk.start(confined=False)
    assert "in no live session" in await desk.refusal("GET", "/v1/session", caller=OTHER)
    await desk.start(confined=False)
    assert "several sessions of your user" in await desk.refusal("GET", "/v1/session")


async def test_a_process_that_is_gone_is_told_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads what it asked for is somebody else."""
    await desk.start(confined=False)
    monkeypatch.setattr(desk.node.seams.kernel, "caller_of", lambda _: None)
    assert "it is gone" in await desk.refusal("GET", "/v1/session")


async def test_a_kernel_that_does_not_answer_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal as any other: nobody is guessed."""

    def silent(_: object) -> None:
        raise LocalError("no /proc")

    monkeypatch.setattr(desk.node.seams.kernel, "caller_of", silent)
    assert "the kernel does not say who you are (no /proc)" in await desk.refusal("GET", "/v1/session")


async def test_the_bindings_are_those_that_the_caller_has_left(desk: Desk) -> None:
    """All of its agent's, or of its child's."""
    session = await desk.start()
    child = await desk.child(session, {"services": ["wiki"]})
    both = ["wiki", "tickets"]
    for inside, services in ((session, both), (child, ["wiki"])):
        _, said = await desk.ask("GET", "/v1/bindings", inside=inside)
        assert [one["service"] for one in said["bindings"]] == services
        wiki = said["bindings"][0]
        assert (wiki["address"], wiki["segment"], wiki["class"]) == ("127.0.0.1:15001", "retrieval", "read")


# -- Children


async def test_a_process_becomes_a_child_with_what_it_asks_to_keep(desk: Desk) -> None:
    """The answer is the child's own."""
    session = await desk.start()
    wanted = {"services": ["wiki"], "operations": ["GET /api/**"], "life": 60}
    status, said = await desk.ask("POST", "/v1/children", wanted, inside=session)
    assert status == 201
    assert (said["parents"], said["operations"]) == ([session.name], ["GET /api/**"])
    assert said["services"] == {"wiki": "127.0.0.1:15001"}
    assert said["not_after"] == desk.node.member.moment().now + MINUTE
    child = desk.node.sessions.find(said["session"])
    _, again = await desk.ask("GET", "/v1/session", inside=child)
    assert again == said


async def test_a_child_keeps_what_it_does_not_narrow(desk: Desk) -> None:
    """Services and operations from its parent, and no more time than that has."""
    session = await desk.start()
    child = await desk.child(session, {"services": ["wiki"], "operations": ["GET /api/**"], "life": 60})
    grandchild = await desk.child(child)
    assert grandchild.parents == (session.name, child.name)
    one, other = child.narrowing, grandchild.narrowing
    assert one is not None
    assert other == replace(one, children=(child.name, grandchild.name))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"services": ["tickets"]}, "service tickets is none that its parent reaches here"),
        ({"services": ["vault"]}, "service vault is none"),
        ({"services": []}, "no service is left"),
        ({"operations": ["GET /**"]}, "its operations are more than its parent's"),
        ({"operations": ["GET"]}, "is not METHOD NAME"),
        ({"life": 0}, "child: "),
        ({"life": 86_401}, "child: "),
        ({"uid": 0}, "child: "),
        ([], "child: "),
    ],
)
async def test_a_child_asks_for_no_more_than_its_parent_has(desk: Desk, body: object, said: str) -> None:
    """What is wrong is named, and nothing has changed."""
    child = await desk.child(await desk.start(), {"services": ["wiki"], "operations": ["GET /api/**"]})
    assert said in await desk.refusal("POST", "/v1/children", body, inside=child)
    assert len(desk.node.sessions.children) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b'{"life": 1e400}', b'{"services": 7}'])
async def test_what_any_process_may_send_costs_one_refusal(desk: Desk, body: bytes) -> None:
    """No traceback in the log, and no child."""
    session = await desk.start()
    await desk.refusal("POST", "/v1/children", body, inside=session)
    assert desk.node.sessions.children == []


async def test_inside_a_child_nobody_elses_child_is_started(desk: Desk) -> None:
    """It names its parent, and gets a child of its own all the same."""
    session = await desk.start()
    child = await desk.child(session, {"services": ["wiki"]})
    grandchild = await desk.child(child, {"session": session.name})
    assert grandchild.parents == (session.name, child.name)


async def test_a_process_outside_of_all_names_the_session(desk: Desk) -> None:
    """One of its user's."""
    one, _ = await desk.start(), await desk.start()
    status, said = await desk.ask("POST", "/v1/children", {"session": one.name})
    assert (status, said["parents"]) == (201, [one.name])
    asked = await desk.refusal("POST", "/v1/children", {"session": one.name}, caller=OTHER)
    assert asked == f"session {one.name}: you have no such session on this node"


async def test_a_caller_that_dies_becomes_no_child(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by then."""
    session = await desk.start()
    monkeypatch.setattr(local_api, "peer_pidfd", lambda *_: None)
    assert "the process that asked is gone" in await desk.refusal("POST", "/v1/children", {}, inside=session)


# -- What a child must not


async def test_nobody_inside_a_session_starts_another(desk: Desk) -> None:
    """Child, ended and live alike: it would be rid of its limits, its user, its lineage and its longest life."""
    session, ended = await desk.start(), await desk.start()
    child = await desk.child(session, {"services": ["wiki"]})
    desk.node.life.end(ended)
    for inside in (child, ended, session):
        said = await desk.refusal("POST", "/v1/sessions", {"agent": "researcher"}, inside=inside)
        assert "none of these starts another" in said


async def test_who_may_start_is_asked_again_when_the_ca_has_answered(desk: Desk) -> None:
    """Meanwhile the process may have been taken into a session. What the CA gave is thrown away."""
    session = await desk.start()
    assert session.cgroup is not None
    calls = desk.node.certify

    async def answers_late(wanted: SpiffeId, id_token: str, ca: CaAccess) -> tuple[Identity, Key]:
        desk.node.sessions.claimed |= {NOBODYS}
        return await calls(wanted, id_token, ca)

    desk.node.life.certify = answers_late
    said = await desk.refusal("POST", "/v1/sessions", {"agent": "researcher"}, inside=NOBODYS)
    assert "none of these starts another" in said
    assert [one.name for one in desk.node.sessions] == [session.name]


async def test_a_caller_that_is_gone_gets_no_session_by_its_uid(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked for a cgroup of its own; known by the uid, the session would be everybody's of that user."""
    monkeypatch.setattr(agent, "peer_pidfd", lambda *_: None)
    wanted = {"agent": "researcher", "own_cgroup": True}
    assert "is gone" in await desk.refusal("POST", "/v1/sessions", wanted)
    assert list(desk.node.sessions) == []


async def test_a_child_acts_on_itself_and_below_and_on_nobody_else(desk: Desk) -> None:
    """It does not end its parent, and gets no certificate in its name."""
    session = await desk.start()
    child = await desk.child(session)
    sibling, grandchild = await desk.child(session), await desk.child(child)
    for other in (session, sibling):
        for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/client-certificates")):
            said = await desk.refusal(method, f"/v1/sessions/{other.name}{rest}", inside=child)
            assert said == f"session {other.name}: you have no such session on this node"
    _, seen = await desk.ask("GET", "/v1/sessions", inside=child)
    assert [one["session"] for one in seen["sessions"]] == [child.name, grandchild.name]
    status, _ = await desk.ask("DELETE", f"/v1/sessions/{child.name}", inside=child)
    assert status == 200
    assert desk.node.sessions.find(grandchild.name) is None
    assert desk.node.sessions.find(session.name) is not None


async def test_a_session_does_not_end_its_sibling(desk: Desk) -> None:
    """From inside, an agent that was talked into it reaches no other session of its user; from outside the user does."""
    session, sibling = await desk.start(), await desk.start()
    assert "no such session" in await desk.refusal("DELETE", f"/v1/sessions/{sibling.name}", inside=session)
    assert (await desk.ask("DELETE", f"/v1/sessions/{sibling.name}"))[0] == 200


async def test_what_an_ended_session_left_acts_on_nothing(desk: Desk) -> None:
    """Nor on the other sessions of its user."""
    ended, other = await desk.start(), await desk.start()
    desk.node.life.end(ended)
    _, seen = await desk.ask("GET", "/v1/sessions", inside=ended)
    assert seen["sessions"] == []
    assert "no such session" in await desk.refusal("DELETE", f"/v1/sessions/{other.name}", inside=ended)


# -- Why was I refused


async def test_a_process_learns_why_and_what_would_help(desk: Desk) -> None:
    """Of its own session, newest first."""
    session = await desk.start()
    for at in (1, 2):
        desk.refused(session, at)
    _, said = await desk.ask("GET", "/v1/refusals", inside=session)
    newest, _ = said["refusals"]
    assert (newest["at"], newest["reason"], newest["hint"]) == (2, "no_grant", "no grant")
    assert "ask an admin to add one" in newest["remedy"]


async def test_each_sees_its_own_refusals_only(desk: Desk) -> None:
    """A session those of its children, a user those of its sessions, root all."""
    session, other = await desk.start(), await desk.start()
    child = await desk.child(session)
    for at, one in enumerate((session, child, other)):
        desk.refused(one, at)
    desk.refused(None, 3)
    desk.refused(None, 4, uid=1002)

    async def seen(**who: Any) -> list[int]:
        _, said = await desk.ask("GET", "/v1/refusals", **who)
        return [one["at"] for one in said["refusals"]]

    assert await seen(inside=session) == [3, 1, 0]
    assert await seen(inside=child) == [3, 1]
    assert await seen() == [3, 2, 1, 0]
    assert await seen(caller=OTHER) == [4]
    assert await seen(caller=ROOT_USER) == [4, 3, 2, 1, 0]
    desk.node.life.end(session)
    assert await seen(inside=session) == [3, 1, 0], "what it left may still ask why"


async def test_the_refusals_of_one_session_are_asked_for_by_its_id(desk: Desk) -> None:
    """Of one that is not the caller's there is nothing to see."""
    session, other = await desk.start(), await desk.start()
    desk.refused(session, 1)
    desk.refused(other, 2)
    for inside, seen in ((None, [1]), (session, [1]), (other, [])):
        _, said = await desk.ask("GET", f"/v1/refusals/{session.name}", inside=inside)
        assert [one["at"] for one in said["refusals"]] == seen
