import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwk, jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from pki.authority.refusal import RefusalError
from pki.clock import SECOND
from pki.errors import LocalError
from pki.http.server import serve_connection
from pki.tls.context import ClientCertificate, make_context
from pki.tls.stream import TlsStream
from sidecar.ca import oidc
from sidecar.ca.oidc import KEYS_SECONDS, RETRY_SECONDS, IdTokens
from sidecar.config import Oidc
from tests import certs
from tests.authority import NOW
from tests.clock import ManualClock

ISSUER = "https://login.example.org"
KEY = jwk.ECKey.generate_key("P-256", {"kid": "one"})
NEXT = jwk.ECKey.generate_key("P-256", {"kid": "two"})
CA = certs.root("login-ca")
HOST = certs.issue(CA, "localhost")


def token(key: Any = KEY) -> str:
    claims = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": "lockgate",
        "iat": NOW // SECOND,
        "exp": NOW // SECOND + 10**4,
    }
    return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def id_tokens(where: str, clock: ManualClock, ca: Path | None = None) -> IdTokens:
    settings = Oidc.model_validate(
        {"issuer": ISSUER, "audience": "lockgate", "jwks": where, "ca": str(ca) if ca else None}
    )
    return IdTokens(settings, clock)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(KEY))
    return path


@dataclass
class Login:
    """An issuer over TLS, which answers with ``body`` and notes what it was asked."""

    body: bytes
    asked: list[tuple[str, str]] = field(default_factory=list)
    mute: bool = False
    port: int = 0

    async def answer(self, request: Request) -> Response:
        self.asked.append((request.url.path, request.headers["host"]))
        if self.mute:
            await trio.sleep_forever()
        return Response(self.body)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        app = Starlette(routes=[Route("/keys", self.answer)])

        async def serve(transport: trio.SocketStream) -> None:
            context = make_context(
                anchors=[CA.certificate.public_bytes(Encoding.DER)],
                chain=[HOST.certificate.public_bytes(Encoding.DER)],
                key=HOST.key,
                server_side=True,
                client_certificate=ClientCertificate.OPTIONAL,
            )
            stream = TlsStream(transport, context, server_side=True)
            try:
                await stream.do_handshake()
                await serve_connection(stream, app, extra={})
            except (LocalError, trio.BrokenResourceError):
                await trio.aclose_forcefully(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield f"https://localhost:{self.port}/keys"
            nursery.cancel_scope.cancel()


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    return path


async def test_a_ca_without_an_issuer_takes_no_id_tokens() -> None:
    """And says where one is named."""
    with pytest.raises(RefusalError, match=r"\[oidc\] in ca.toml"):
        await IdTokens(None, ManualClock()).check(token())


async def test_keys_from_a_file(file: Path) -> None:
    """For an issuer that the CA cannot reach."""
    assert (await id_tokens(str(file), ManualClock()).check(token())).user == "alice"


async def test_without_keys_it_is_no_fault_of_the_token(tmp_path: Path) -> None:
    """The CA cannot do this now; its log says why."""
    clock = ManualClock()
    tokens = id_tokens(str(tmp_path / "jwks.json"), clock)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(LocalError, match="No such file"):
                await tokens.check(token())
    assert ["keys of the issuer" in one["event"] for one in logs] == [True]
    put(tmp_path / "jwks.json", jwks(KEY))
    clock.pass_time(RETRY_SECONDS * SECOND)
    assert (await tokens.check(token())).user == "alice"


async def test_keys_change_and_are_looked_for_again(file: Path) -> None:
    """A key that is not held is asked for at once, but not more often than a stranger may make us."""
    clock = ManualClock()
    tokens = id_tokens(str(file), clock)
    await tokens.check(token())
    put(file, jwks(NEXT))
    with pytest.raises(RefusalError, match="kid names no key"):
        await tokens.check(token(NEXT))
    clock.pass_time(RETRY_SECONDS * SECOND)
    assert (await tokens.check(token(NEXT))).user == "alice"
    with pytest.raises(RefusalError, match="kid names no key"):
        await tokens.check(token(KEY))


async def test_a_withdrawn_key_counts_no_longer_than_it_is_kept(file: Path) -> None:
    """Nobody tells us that an issuer has withdrawn one."""
    clock = ManualClock()
    tokens = id_tokens(str(file), clock)
    await tokens.check(token())
    put(file, jwks(NEXT))
    clock.pass_time(KEYS_SECONDS * SECOND - 1)
    await tokens.check(token())
    clock.pass_time(1)
    with pytest.raises(RefusalError, match="kid names no key"):
        await tokens.check(token())


async def test_an_issuer_that_is_away_leaves_the_keys_that_are_held(file: Path) -> None:
    """Nobody's session should wait for it to come back."""
    clock = ManualClock()
    tokens = id_tokens(str(file), clock)
    await tokens.check(token())
    put(file, b"<html>502 Bad Gateway</html>")
    clock.pass_time(KEYS_SECONDS * SECOND)
    with capture_logs():
        assert (await tokens.check(token())).user == "alice"


async def test_keys_over_https_once_for_many_tokens(ca: Path) -> None:
    """From the host that the URL names, under its own name."""
    login = Login(jwks(KEY))
    async with login.serving() as url:
        tokens = id_tokens(url, ManualClock(), ca)
        for _ in range(3):
            assert (await tokens.check(token())).user == "alice"
    assert login.asked == [("/keys", f"localhost:{login.port}")]


async def test_a_host_that_the_named_ca_does_not_vouch_for_is_not_believed(ca: Path) -> None:
    """Else whoever sits in between puts in a key of its own."""
    put(ca, certs.root("other-ca").certificate.public_bytes(Encoding.PEM))
    login = Login(jwks(KEY))
    async with login.serving() as url:
        with capture_logs(), pytest.raises(LocalError):
            await id_tokens(url, ManualClock(), ca).check(token())
    assert login.asked == []


@pytest.mark.parametrize("body", [b'{"keys": []}', b"[" * 10_000, b'"' + b"x" * 300_000 + b'"'])
async def test_an_answer_that_is_no_set_of_keys_is_refused(ca: Path, body: bytes) -> None:
    """Whatever its size."""
    async with Login(body).serving() as url:
        with capture_logs(), pytest.raises(LocalError):
            await id_tokens(url, ManualClock(), ca).check(token())


async def test_an_issuer_that_does_not_answer_is_waited_for_so_long(
    ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a session hears of it."""
    monkeypatch.setattr(oidc, "FETCH_SECONDS", 0.05)
    async with Login(b"", mute=True).serving() as url:
        with capture_logs(), pytest.raises(LocalError, match="no answer"):
            await id_tokens(url, ManualClock(), ca).check(token())
