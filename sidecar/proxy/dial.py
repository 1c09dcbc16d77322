"""Connect to a service's one target: TCP, a Unix socket, or TLS with a named CA and server name."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from OpenSSL import SSL

from pki.errors import LocalError, RemoteError, UnreachableError
from pki.keys import load_private
from pki.tls.context import tool_context
from pki.tls.stream import TlsStream
from sidecar.net import dial_tcp
from sidecar.policy.target import Target, TcpTarget, TlsTarget, UnixTarget

MAX_PEM_BYTES = 1024 * 1024


async def dial(target: Target) -> trio.abc.HalfCloseableStream:
    """A connection to ``target``; raises UnreachableError, RemoteError (its certificate), LocalError (our files)."""
    match target:
        case TcpTarget(address):
            return await dial_tcp(address)
        case UnixTarget(path):
            return await _dial_unix(path)
        case TlsTarget():
            return await _dial_tls(target)


async def _dial_unix(path: str) -> trio.SocketStream:
    try:
        return await trio.open_unix_socket(path)
    except OSError as error:
        raise UnreachableError(f"unix:{path}: {error.strerror or error}") from None


async def _dial_tls(target: TlsTarget) -> TlsStream:
    trust = _files.trust(target)
    transport = await dial_tcp(target.address)
    stream = TlsStream(transport, trust.context, server_side=False, server_name=target.server_name)
    try:
        await stream.do_handshake()
        _check_name(stream.peer_chain(), trust.store, target.server_name)
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(stream)
        raise UnreachableError(f"{target}: it left during the TLS handshake") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _check_name(chain: tuple[bytes, ...], store: Store, server_name: str) -> None:
    """OpenSSL has checked the chain; whose certificate it is, is checked here (RFC 6125)."""
    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(server_name))
    try:
        verifier.verify(certificates[0], certificates[1:])
    except VerificationError as error:
        raise RemoteError(f"tool certificate: not {server_name}'s ({error})") from None


@dataclass(frozen=True, slots=True)
class _Trust:
    context: SSL.Context
    store: Store


class _Files:
    """Contexts by target, made again when one of its files has changed: rotating a credential needs no restart."""

    def __init__(self) -> None:
        self._made: dict[TlsTarget, tuple[tuple[float, ...], _Trust]] = {}

    def trust(self, target: TlsTarget) -> _Trust:
        paths = [Path(target.ca)]
        if target.client_certificate:
            paths.append(credential_path(target.client_certificate))
        try:
            stamp = tuple(path.stat().st_mtime for path in paths)
        except OSError as error:
            raise LocalError(f"{error.filename}: {error.strerror}") from None
        known = self._made.get(target)
        if known is None or known[0] != stamp:
            known = self._made[target] = (stamp, _read(target, paths))
        return known[1]


_files = _Files()


def credential_path(name: str) -> Path:
    """The file of an ``inject`` value: itself if absolute, else a systemd credential (systemd.exec(5))."""
    if name.startswith("/"):
        return Path(name)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise LocalError(f"credential {name}: not an absolute path, and no LoadCredential= gave us any")
    return Path(folder) / name


def _read(target: TlsTarget, paths: list[Path]) -> _Trust:
    anchors = _certificates(paths[0], _read_public(paths[0]))
    chain: list[x509.Certificate] = []
    key: EllipticCurvePrivateKey | RSAPrivateKey | None = None
    if target.client_certificate:
        pem = load_private(paths[1])
        chain = _certificates(paths[1], pem)
        key = _private_key(paths[1], pem)
    return _Trust(tool_context(anchors, chain, key), Store(anchors))


def _private_key(path: Path, pem: bytes) -> EllipticCurvePrivateKey | RSAPrivateKey:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise LocalError(f"{path}: holds no private key without a passphrase") from None
    if not isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey):
        raise LocalError(f"{path}: its key is neither an elliptic curve's nor RSA")
    return key


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise LocalError(f"{path}: holds no PEM certificates") from None


def _read_public(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & stat.S_IWOTH:
                raise LocalError(f"{path}: everybody may write it; run: chmod o-w {path}")
            return file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None
