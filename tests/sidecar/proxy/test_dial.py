"""The three shapes of a target, against real sockets and a tool that speaks TLS itself."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.errors import LocalError, LockgateError, RemoteError, UnreachableError
from pki.tls.context import ClientCertificate, make_context
from pki.tls.stream import TlsStream
from sidecar.address import Address
from sidecar.net import listen_tcp
from sidecar.policy.target import TcpTarget, TlsTarget, UnixTarget
from sidecar.proxy.dial import credential_path, dial
from tests import certs

CA = certs.root("tool-ca")
TOOL = certs.issue(CA, "tool.internal")
STRANGER = certs.issue(certs.root("other"), "tool.internal")
CLIENT = certs.issue(CA, "sidecar.internal")


@asynccontextmanager
async def tool(credential: certs.Issued | None) -> AsyncIterator[Address]:
    """A tool on loopback that says "hi <number of client certificates>"; with a credential, over TLS."""
    listener = (await listen_tcp(Address("127.0.0.1", _free_port())))[0]
    address = Address("127.0.0.1", listener.socket.getsockname()[1])

    async def serve(stream: trio.abc.Stream) -> None:
        shown = 0
        if credential is not None:
            context = make_context(
                anchors=[CA.der],
                chain=credential.chain,
                key=credential.key,
                server_side=True,
                client_certificate=ClientCertificate.OPTIONAL,
            )
            stream = TlsStream(stream, context, server_side=True)
            try:
                await stream.do_handshake()
            except (LockgateError, trio.BrokenResourceError):
                return
            shown = int(bool(stream.peer_chain()))
        await stream.send_all(f"hi {shown}".encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield address
        nursery.cancel_scope.cancel()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def ca(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    return str(path)


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client certificate with its key, as an operator would put it down."""
    path = tmp_path / "client.pem"
    key = CLIENT.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(CLIENT.certificate.public_bytes(Encoding.PEM) + key)
    path.chmod(0o600)
    return path


def lay_open(path: Path) -> None:
    path.chmod(0o644)


def replace(path: str, content: bytes) -> None:
    """New content, and a time of change that differs whatever the clock's grain."""
    Path(path).write_bytes(content)
    os.utime(path, (1, 1))


async def hello(target: TcpTarget | UnixTarget | TlsTarget) -> bytes:
    stream = await dial(target)
    async with stream:
        return bytes(await stream.receive_some(64))


async def test_a_tcp_target_is_dialled_as_it_stands() -> None:
    """No more than a connection."""
    async with tool(None) as address:
        assert await hello(TcpTarget(address)) == b"hi 0"


async def test_a_target_that_is_not_there_is_unreachable(tmp_path: Path, ca: str) -> None:
    """Whatever its shape, with the system's words."""
    gone = Address("127.0.0.1", _free_port())
    for target in (TcpTarget(gone), TlsTarget(gone, ca, "tool.internal"), UnixTarget(str(tmp_path / "no"))):
        with pytest.raises(UnreachableError):
            await dial(target)


async def test_a_unix_target_is_dialled(tmp_path: Path) -> None:
    """A tool behind a socket file is reached by no other local user than its mode lets in."""
    path = tmp_path / "tool.sock"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def serve() -> None:
        connection, _ = await listener.accept()
        await connection.send(b"unix")
        connection.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert await hello(UnixTarget(str(path))) == b"unix"
    listener.close()


async def test_a_tls_tool_is_verified_by_its_own_ca_and_name(ca: str) -> None:
    """The named CA vouches for the named server, and then only."""
    async with tool(TOOL) as address:
        assert await hello(TlsTarget(address, ca, "tool.internal")) == b"hi 0"
        with pytest.raises(RemoteError, match=r"not vault\.internal's"):
            await dial(TlsTarget(address, ca, "vault.internal"))


async def test_a_tool_of_another_ca_is_refused(ca: str) -> None:
    """Somebody else's certificate for the same name is worth nothing."""
    async with tool(STRANGER) as address:
        with pytest.raises((RemoteError, UnreachableError)):
            await hello(TlsTarget(address, ca, "tool.internal"))


async def test_an_injected_client_certificate_is_shown_to_the_tool(ca: str, client: Path) -> None:
    """The agent's side has no part in it."""
    async with tool(TOOL) as address:
        assert await hello(TlsTarget(address, ca, "tool.internal", str(client))) == b"hi 1"


async def test_a_credential_that_others_can_read_is_refused(ca: str, client: Path) -> None:
    """A secret that leaked on this machine is not used."""
    lay_open(client)
    async with tool(TOOL) as address:
        with pytest.raises(LocalError, match="chmod 0600"):
            await dial(TlsTarget(address, ca, "tool.internal", str(client)))


async def test_a_rotated_file_is_read_again(ca: str) -> None:
    """Replacing a CA needs no restart."""
    async with tool(TOOL) as address:
        target = TlsTarget(address, ca, "tool.internal")
        assert await hello(target) == b"hi 0"
        replace(ca, certs.root("new").certificate.public_bytes(Encoding.PEM))
        with pytest.raises((RemoteError, UnreachableError)):
            await hello(target)


async def test_junk_in_a_file_is_named(ca: str) -> None:
    """One line: which file, and what it does not hold."""
    replace(ca, b"junk")
    with pytest.raises(LocalError, match="holds no PEM certificates"):
        await dial(TlsTarget(Address("127.0.0.1", 1), ca, "tool.internal"))


def test_a_systemd_credential_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoadCredential= puts them into a folder of their own."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/lockgate.service")
    assert credential_path("tool.pem") == Path("/run/credentials/lockgate.service/tool.pem")
    assert credential_path("/etc/tool.pem") == Path("/etc/tool.pem")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(LocalError, match="LoadCredential"):
        credential_path("tool.pem")
