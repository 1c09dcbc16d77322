import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette

from pki.authority.enrol import Enrolment
from pki.clock import DAY, MINUTE
from pki.errors import LocalError
from pki.token import Token
from sidecar.ca.control import ca_app
from sidecar.ca.rollover import RolloverDesk
from sidecar.peercred import PeerCred
from sidecar.snapshot import Restrictions
from tests.authority import NOW
from tests.sidecar.ca.world import CONFIG, POLICY, Bureau
from tests.sidecar.control.world import ask, message
from tests.statements import lock, revocation

TOKEN = {"kind": "node", "name": "tools-1", "roles": [], "ttl": 10 * MINUTE}


@pytest.fixture
def bureau(tmp_path: Path) -> Iterator[Bureau]:
    bureau = Bureau(tmp_path)
    yield bureau
    bureau.register.close()


def desk_of(bureau: Bureau) -> RolloverDesk:
    return RolloverDesk(bureau.office, bureau.signer, bureau.folder, bytes)


@pytest.fixture
def app(bureau: Bureau) -> Starlette:
    async def reload() -> list[str]:
        return ["listen"]

    return ca_app(CONFIG, bureau.office, Enrolment(bureau.issuer), reload, desk_of(bureau))


async def test_status_tells_what_is_in_force_at_the_ca(bureau: Bureau, app: Starlette) -> None:
    """Roster, locks and revocations, as a node tells them."""
    alice = await bureau.enlist("alice", "responder", "admin")
    await bureau.enrol("tools-1")
    locked = alice.says("lock", lock("agent", "a", message="stop"))
    revoked = alice.says("revocation", revocation("node", "tools-9"))
    await bureau.hears(locked, revoked)
    status, body = await ask(app, "GET", "/v1/status")
    assert (status, body["schema_version"], body["pid"]) == (200, 1, os.getpid())
    assert (body["role"], body["name"], body["ready"], body["dev"]) == ("ca", "ca-1", True, False)
    assert body["nodes"] == ["tools-1"]
    assert body["operators"] == {"alice": ["admin", "responder"]}
    author = "spiffe://example.org/operator/alice"
    until = locked.payload.expires
    assert body["locks"] == [
        {"id": locked.id, "target": "agent:a", "until": until, "by": author, "message": "stop"}
    ]
    assert body["revocations"] == [{"id": revoked.id, "target": "node:tools-9", "by": author}]
    assert body["policy"] == {"sequence": 0, "digest": "0" * 64, "fault": ""}


async def test_a_token_takes_root_on_the_cas_host(app: Starlette) -> None:
    """The socket's group may read; a token for an admin would make each of its members one."""
    member_of_the_group = PeerCred(pid=7, uid=os.geteuid() + 1, gid=0)
    answer = await ask(app, "POST", "/v1/tokens", TOKEN, caller=member_of_the_group)
    assert message(answer).startswith("token create: only root on the CA's host")


async def test_root_on_the_cas_host_stops_anybody_and_lets_go_again(bureau: Bureau, app: Starlette) -> None:
    """An admin too, whom no operator can: signed by the CA, in force at once, and lifted by nobody else's leave."""
    await bureau.enlist("alice", "admin")

    def restrictions() -> Restrictions:
        return bureau.office.member.snapshot.restrictions

    wanted = {"target": {"kind": "operator", "value": "alice"}, "message": "stolen", "life": DAY}
    status, revoked = await ask(app, "POST", "/v1/orders", {"kind": "revocation", **wanted})
    assert status == 201
    assert restrictions().revokes("operator", "alice")
    everything = {"kind": "lock", "target": {"kind": "all"}, "message": "", "life": MINUTE}
    _, locked = await ask(app, "POST", "/v1/orders", everything)
    assert restrictions().is_locked("all", "", NOW)
    assert (await ask(app, "POST", "/v1/unlocks", {"id": locked["id"]}))[0] == 201
    assert not restrictions().is_locked("all", "", NOW)
    assert revoked["kind"] == "revocation"


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/unlocks", "/v1/unrevokes"])
async def test_an_order_takes_root_on_the_cas_host(app: Starlette, path: str) -> None:
    """Whoever may order could stop the mesh for good: the socket's group may not."""
    member_of_the_group = PeerCred(pid=7, uid=os.geteuid() + 1, gid=0)
    answer = await ask(app, "POST", path, {}, caller=member_of_the_group)
    assert answer[0] == 400
    assert "only root on the CA's host" in message(answer)


async def test_a_token_is_for_one_name_and_says_where_the_ca_is(app: Starlette) -> None:
    """What `token create` prints is all that a newcomer needs."""
    status, body = await ask(app, "POST", "/v1/tokens", TOKEN)
    token = Token.parse(body["token"])
    assert status == 201
    assert str(token.member) == "spiffe://example.org/node/tools-1"
    assert token.addresses == ("127.0.0.1:7444",)
    assert body["expires"] == NOW + 10 * MINUTE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles": ["admin"]}, "a node none"),
        ({"kind": "operator"}, "one or more roles"),
        ({"kind": "ca"}, "kind"),
        ({"name": "Tools"}, "NAME of a-z"),
        ({"ttl": 8 * DAY}, "ttl"),
        ({"extra": 1}, "extra"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    app: Starlette, changes: dict[str, object], words: str
) -> None:
    """The refusal names what is wrong."""
    status, body = await ask(app, "POST", "/v1/tokens", TOKEN | changes)
    assert status == 400
    assert words in message((status, body))


async def test_no_token_is_made_for_a_revoked_name(bureau: Bureau, app: Starlette) -> None:
    """It could not be redeemed anyway."""
    alice = await bureau.enlist("alice", "responder")
    await bureau.hears(alice.says("revocation", revocation("node", "tools-1")))
    assert "was revoked" in message(await ask(app, "POST", "/v1/tokens", TOKEN))


async def test_the_policy_in_force_is_shown_with_its_text(bureau: Bureau, app: Starlette) -> None:
    """Before the first one, that everything is refused."""
    assert "no policy is in force" in message(await ask(app, "GET", "/v1/policy"))
    await bureau.enrol("agents-1", "tools-1")
    applied = await bureau.apply(POLICY)
    status, body = await ask(app, "GET", "/v1/policy")
    assert (status, body["sequence"], body["digest"], body["text"]) == (200, 1, applied["digest"], POLICY)


async def test_a_policy_whose_text_is_gone_is_an_error(bureau: Bureau, app: Starlette) -> None:
    """It stays in force, and the answer says what is missing."""
    await bureau.enrol("agents-1", "tools-1")
    applied = await bureau.apply(POLICY)
    (bureau.paths.objects / str(applied["digest"])).unlink()
    assert "gone from the disk" in message(await ask(app, "GET", "/v1/policy"))


async def test_reload_says_what_waits_for_a_restart(app: Starlette) -> None:
    """A listener cannot move under its clients."""
    assert (await ask(app, "POST", "/v1/reload"))[1]["needs_restart"] == ["listen"]


async def test_a_reload_that_is_refused_says_why(bureau: Bureau) -> None:
    """The words of the error, as one of the daemon's own refusals."""

    async def reload() -> list[str]:
        raise LocalError("ca.toml: gone")

    app = ca_app(CONFIG, bureau.office, Enrolment(bureau.issuer), reload, desk_of(bureau))
    answer = await ask(app, "POST", "/v1/reload")
    assert (answer[0], message(answer)) == (400, "ca.toml: gone")
