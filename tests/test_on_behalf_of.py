"""A session on a user's behalf, from the login at a real OpenID Connect provider to the records of both nodes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

import pytest

from sidecar.dev.layout import free_ports
from tests.clients import ask, connect
from tests.mesh import Done, Mesh, dev_mesh, lockgate, until
from tests.servers import listens, serving

USER = "alice@example.org"
AUDIENCE = "lockgate"
HERE = "https://agents.example.org/callback"
NODES = ("agents-1", "tools-1")


class Provider:
    """oidc-provider-mock on loopback: the authorization code flow, as a browser and a client play it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def jwks(self) -> bytes:
        with urlopen(f"{self.url}/jwks") as answer:  # noqa: S310 - our own loopback URL
            data: bytes = answer.read()
        return data

    def login(self, audience: str = AUDIENCE, user: str = USER) -> str:
        """The user's ID token for the client ``audience``."""
        asked = {"client_id": audience, "redirect_uri": HERE, "response_type": "code", "scope": "openid"}
        consent = urlencode({"sub": user}).encode()
        try:
            _Stays.open(f"{self.url}/oauth2/authorize?{urlencode(asked)}", consent)
            raise AssertionError("the provider redirects to us")
        except HTTPError as redirect:
            [code] = parse_qs(urlsplit(redirect.headers["location"]).query)["code"]
        spent = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": HERE,
            "client_id": audience,
        }
        request = Request(  # noqa: S310 - as above
            f"{self.url}/oauth2/token", urlencode({**spent, "client_secret": "any"}).encode()
        )
        with urlopen(request) as answer:  # noqa: S310 - as above
            return str(json.load(answer)["id_token"])


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Nobody is at the other end."""


_Stays = build_opener(_NoRedirect)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """One that anybody may log in at."""
    [port] = free_ports(1)
    log = tmp_path_factory.mktemp("provider") / "log"
    command: list[str | Path] = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port)]
    with serving(command, lambda: listens(port), log):
        yield Provider(port)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Mesh]:
    """Whose CA trusts the provider, and renews sessions every few seconds."""
    with dev_mesh(tmp_path_factory.mktemp("oidc") / "D", "--lifetime", "8s") as mesh:
        trust(mesh, provider)
        for session in mesh.cli("session", "ls", "--json").json["sessions"]:
            mesh.cli("session", "end", session["session"])
        yield mesh


def trust(mesh: Mesh, provider: Provider) -> None:
    etc = mesh.member("ca") / "etc"
    (etc / "jwks.json").write_bytes(provider.jwks())
    table = f'\n[oidc]\nissuer = "{provider.url}"\naudience = "{AUDIENCE}"\njwks = "{etc / "jwks.json"}"\n'
    with (etc / "ca.toml").open("a") as config:
        config.write(table)
    mesh.kill("ca")
    mesh.start("ca")
    mesh.ready("ca")


def start(mesh: Mesh, token: str) -> Done:
    file = mesh.root / "id-token"
    file.write_text(f"{token}\n")
    return mesh.cli("session", "start", "--agent", "researcher", "--id-token-file", str(file), "--json")


@pytest.fixture(scope="module")
def session(mesh: Mesh, provider: Provider) -> str:
    done = start(mesh, provider.login())
    assert done.code == 0, done
    return str(done.json["session"])


def echoes(mesh: Mesh) -> bool:
    with connect(int(mesh.env["ECHO"].rpartition(":")[2])) as stream:
        return ask(stream, b"hello") == b"hello"


def test_every_record_of_its_streams_names_the_user(mesh: Mesh, session: str) -> None:
    """On both nodes, each by the certificate that the CA signed; and `session ls` and `show` say it."""
    until(lambda: echoes(mesh), "a stream to pass")
    for node in NODES:
        kinds = ("admitted", "opened", "closed")
        until(lambda at=node: mesh.records(at, kind="closed", session=session), f"the end at {node}")  # type: ignore[misc]  # mypy infers no lambda's default
        for kind in kinds:
            found = mesh.records(node, kind=kind, session=session)
            assert {one["on_behalf_of"] for one in found} == {USER}
    assert USER in mesh.cli("session", "ls").out
    assert USER in mesh.cli("session", "show", session).out


def test_a_renewal_keeps_the_user(mesh: Mesh, session: str) -> None:
    """By the CA's own register: the node sends no token again, and could not send another."""
    name = f"/{session}"

    def renewed() -> bool:
        return any(one["id"].endswith(name) for one in mesh.records("agents-1", kind="renewal"))

    until(renewed, "a renewal of the session")
    assert mesh.cli("session", "show", session, "--json").json["on_behalf_of"] == USER
    assert echoes(mesh)


def test_a_token_starts_one_session(mesh: Mesh, session: str, provider: Provider) -> None:
    """A second one with it is refused by name; a new login starts another."""
    token = provider.login()
    first = start(mesh, token)
    assert first.code == 0, first
    again = start(mesh, token)
    assert (again.code, "ID token: used before" in again.json["error"]["message"]) == (1, True), again
    assert mesh.cli("session", "end", first.json["session"]).code == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("audience", "made for another audience"),
        ("payload", "not signed by the issuer"),
        ("none", "algorithm"),
    ],
)
def test_a_token_that_proves_nobody_starts_no_session(
    mesh: Mesh, provider: Provider, change: str, why: str
) -> None:
    """The command line says which rule it breaks."""
    head, payload, signature = provider.login("wiki" if change == "audience" else AUDIENCE).split(".")
    if change == "payload":
        payload = provider.login(user="mallory").split(".")[1]
    if change == "none":
        head, signature = "eyJhbGciOiJub25lIn0", ""
    refused = start(mesh, f"{head}.{payload}.{signature}")
    assert (refused.code, why in refused.json["error"]["message"]) == (1, True), refused


def test_exec_takes_the_token_from_the_environment(mesh: Mesh, provider: Provider) -> None:
    """LOCKGATE_ID_TOKEN_FILE, which its command does not inherit."""
    file = mesh.root / "id-token"
    file.write_text(provider.login())
    script = "import os; print('LOCKGATE_ID_TOKEN_FILE' in os.environ)"
    words = ("session", "exec", "--agent", "researcher", "--", sys.executable, "-c", script)
    done = lockgate(
        "--dir", str(mesh.member("agents-1")), *words, environment={"LOCKGATE_ID_TOKEN_FILE": str(file)}
    )
    assert (done.code, done.out.strip()) == (0, "False"), done
    started = mesh.records("agents-1", kind="session", what="started")[-1]
    assert started["on_behalf_of"] == USER
