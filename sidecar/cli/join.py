"""`lockgate join`: become a node or an operator, by a token."""

import base64
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from pki import chain as chains
from pki import keys, svid
from pki.bundle import TrustBundle
from pki.certificate import lineage_of, read
from pki.clock import SystemClock, Wall
from pki.errors import ConfigError, LocalError, LockgateError, RemoteError, UnreachableError
from pki.http.client import connect_ca, fetch_bundle
from pki.spiffe import IdKind
from pki.spki import Key, spki_sha256
from pki.statement import Statement
from pki.token import MAX_TOKEN_CHARS, Token
from pki.verify import Identity, verify
from sidecar import defaults
from sidecar.address import ANY_HOST, Address
from sidecar.cli.settings import Settings, operator_home, settings_options
from sidecar.cli.values import ADDRESS
from sidecar.config import load_node_config
from sidecar.exits import Exit
from sidecar.gossip.journal import Journal
from sidecar.identity import CHAIN_FILE, KEY_FILE, Credential, named, save_bundle
from sidecar.operator import passphrase, save_facts
from sidecar.policy.features import ENFORCED
from sidecar.version import VERSION
from sidecar.wire import Feature


@click.command()
@click.argument("source", metavar="-", required=False, type=click.Choice(["-"]))
@click.option("--token-file", type=click.Path(path_type=Path), help="Read the token from this file.")
@click.option("--listen", type=ADDRESS, help="Node: take overlay connections here (default 0.0.0.0:7443).")
@click.option("--advertise", type=ADDRESS, help="Node: where peers reach it (default: as it reaches the CA).")
@click.option("--no-passphrase", is_flag=True, help="Operator: keep the key without a passphrase.")
@settings_options
def join(
    settings: Settings,
    *,
    source: str | None,
    token_file: Path | None,
    listen: Address | None,
    advertise: Address | None,
    no_passphrase: bool,
) -> int:
    """Join the mesh with a token, from standard input (-) or --token-file. Safe to repeat."""
    token = Token.parse(_read_token(source, token_file))
    if token.member.kind is IdKind.NODE:
        again = _configured(settings.paths.node_toml)
        listen, advertise = listen or again.listen, advertise or again.advertise
        trio.run(_join_node, settings, token, Addresses.chosen(listen, advertise, token))
    else:
        trio.run(_join_operator, settings, token, no_passphrase)
    return Exit.YES


@dataclass(frozen=True, slots=True)
class Configured:
    """What a node that joins again has in its node.toml already; None: nothing."""

    listen: Address | None = None
    advertise: Address | None = None


def _configured(path: Path) -> Configured:
    try:
        config = load_node_config(path.read_bytes(), str(path))
    except (FileNotFoundError, ConfigError):  # One that is not finished is not for us to judge.
        return Configured()
    return Configured(next(iter(config.listen), None), next(iter(config.advertise), None))


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node listens, and where it tells others that it does."""

    listen: Address
    advertise: Address

    @classmethod
    def chosen(cls, listen: Address | None, advertise: Address | None, token: Token) -> "Addresses":
        """What the command line says, and where it says nothing, what works for most."""
        here = listen or Address(ANY_HOST, defaults.OVERLAY_PORT)
        if advertise is None and here.is_wildcard:
            advertise = Address(_own_host(Address.parse(token.addresses[0])), here.port)
        return cls(here, advertise or here)


@dataclass(frozen=True, slots=True)
class Joined:
    """What the CA answered."""

    identity: Identity
    key: Key
    bundle: TrustBundle
    bundle_statement: Statement
    ca: str
    control: str


async def _join_node(settings: Settings, token: Token, place: Addresses) -> None:
    paths = settings.paths
    folder = paths.identity_dir
    if await _is_joined(folder, token):
        _say_joined(settings, token)
        return
    paths.lib.mkdir(mode=0o700, parents=True, exist_ok=True)  # mkdir gives its mode to no parents
    joined = await _enrol(token, _kept_key(folder, None), [str(place.advertise)])
    save_bundle(joined.bundle_statement.raw, folder)
    Journal(paths.statements, create=True).close()
    if not paths.node_toml.exists():
        paths.etc.mkdir(parents=True, exist_ok=True)
        paths.node_toml.write_text(_node_toml(token, joined, place))
    you = await _take_up(joined, folder, None)
    body = {"id": str(joined.identity.id), "kind": "node", "not_after": joined.identity.not_after}
    done = f"joined as {joined.identity.id}; the CA at {joined.ca} knows this node\nnext: lockgate run"
    settings.emit({**body, "self_test": you}, done)


async def _join_operator(settings: Settings, token: Token, no_passphrase: bool) -> None:
    home = operator_home() / token.member.trust_domain / token.member.name
    folder = Path(settings.operator) if settings.operator else home
    if await _is_joined(folder, token):
        _say_joined(settings, token)
        return
    secret = None if no_passphrase else passphrase("passphrase for the credential", confirm=True)
    joined = await _enrol(token, _kept_key(folder, secret), [])
    if _held_line(folder) == joined.identity.serial:
        _say_joined(settings, token)  # The token's answer said again: what was renewed since is newer.
        return
    save_bundle(joined.bundle_statement.raw, folder)
    save_facts(folder, joined.ca, encrypted=secret is not None)
    await _take_up(joined, folder, secret)
    body = {"id": str(joined.identity.id), "kind": "operator", "folder": str(folder)}
    settings.emit(body, f"joined as {joined.identity.id}; the credential is in {folder}")


async def _is_joined(folder: Path, token: Token) -> bool:
    """Whether there is nothing to do. Raises LocalError when the folder is somebody else's."""
    try:
        chain = chains.from_pem((folder / CHAIN_FILE).read_bytes())
    except FileNotFoundError:
        return False
    held, certificate = named(chain[0]), read(chain[0])
    if held != token.member:
        raise LocalError(f"{folder}: holds {held} already; choose another folder for {token.member}")
    # A token carries an operator for 7 days only: a new one is taken as soon as the first certificate is half over.
    ends = certificate.not_after
    if held.kind is IdKind.OPERATOR:
        if lineage_of(certificate) != certificate.serial:
            return False
        ends = Wall((certificate.not_before + ends) // 2)
    return SystemClock().wall() < ends and await _counts(chain, token)


async def _counts(chain: Sequence[bytes], token: Token) -> bool:
    """Whether the CA still stands by a certificate: not when its key was tainted, or retired without this member."""
    for address in token.addresses:
        try:
            _, bundle = await fetch_bundle(address, token.pins)
        except UnreachableError:
            continue
        return isinstance(verify(chain, bundle, SystemClock().wall()), Identity)
    return True


def _held_line(folder: Path) -> str:
    """The lineage of the certificate in ``folder``; empty without one."""
    try:
        leaf = read(chains.from_pem((folder / CHAIN_FILE).read_bytes())[0])
    except FileNotFoundError:
        return ""
    return f"{lineage_of(leaf):x}"


def _say_joined(settings: Settings, token: Token) -> None:
    member = token.member
    body = {"id": str(member), "kind": member.kind.value}
    settings.emit(body, f"already joined as {member}; nothing changed, and the token was not used")


async def _take_up(joined: Joined, folder: Path, secret: bytes | None) -> str:
    """Write the credential last: with it we have joined, and what broke off before is simply done again."""
    identity = joined.identity
    Credential(identity.id, identity.chain, joined.key).save(folder, secret)
    return await self_test(joined.ca, joined.bundle, identity.chain, joined.key)


async def _enrol(token: Token, key: Key, addresses: list[str]) -> Joined:
    """Redeem the token at the first of its addresses that answers."""
    problem: LockgateError = UnreachableError("token: it names no address of the CA")
    for address in token.addresses:
        try:
            statement, bundle = await fetch_bundle(address, token.pins)
        except UnreachableError as error:
            problem = error
            continue
        request = {
            "secret": token.secret,
            "csr": svid.request(key),
            "addresses": addresses,
            "version": VERSION,
            "features": sorted({*Feature.ALL, *ENFORCED}),
            "trust_domain": token.member.trust_domain,
        }
        async with await connect_ca(address, bundle, (), None, SystemClock()) as client:
            answer = (await client.request("POST", "/v1/enrol", json=request)).json
        identity = _checked(answer, token, bundle, key)
        return Joined(identity, key, bundle, statement, address, str(answer["control"]))
    raise problem


def _checked(answer: dict[str, object], token: Token, bundle: TrustBundle, key: Key) -> Identity:
    chain = answer.get("chain")
    certificates = [base64.b64decode(str(one)) for one in chain] if isinstance(chain, list) else []
    identity = verify(certificates, bundle, SystemClock().wall())
    if not isinstance(identity, Identity):
        raise RemoteError(f"CA: the certificate it sent is no good: {identity}")
    if identity.id != token.member:
        raise RemoteError(f"CA: sent a certificate for {identity.id}, not for {token.member}")
    if identity.spki_sha256 != spki_sha256(key.public_key()):
        raise RemoteError("CA: sent a certificate for another key")
    return identity


async def self_test(ca: str, bundle: TrustBundle, chain: tuple[bytes, ...], key: Key) -> str:
    """Speak to the CA with the new certificate; it says who it takes us for."""
    async with await connect_ca(ca, bundle, chain, key, SystemClock()) as client:
        answer = (await client.request("GET", "/v1/status")).json
    return str(answer["you"]["spiffe_id"])


def _kept_key(folder: Path, secret: bytes | None) -> Key:
    """The key is on disk before it is used: a token that was spent for it is not lost with this process."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / KEY_FILE
    if path.exists():
        return keys.load(path, secret)
    key = keys.generate()
    keys.save(key, path, secret)
    return key


def _read_token(source: str | None, file: Path | None) -> str:
    if (source is None) == (file is None):
        raise click.UsageError(
            "give the token on standard input (lockgate join -) or with --token-file, not both"
        )
    try:
        if file is None:
            return sys.stdin.read(MAX_TOKEN_CHARS + 2)
        with file.open() as opened:
            return opened.read(MAX_TOKEN_CHARS + 2)
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(
            f"token: {file or 'standard input'}: {getattr(error, 'strerror', 'not text')}"
        ) from None


def _own_host(ca: Address) -> str:
    """The address of this machine that reaches the CA. Nothing is sent."""
    try:
        family = socket.AF_INET6 if ":" in ca.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((ca.host, ca.port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UnreachableError(
            f"CA {ca}: {error.strerror or error}; give --advertise to join without"
        ) from None


def _node_toml(token: Token, joined: Joined, place: Addresses) -> str:
    return (
        "# Written by `lockgate join`. All keys: config/node.toml in the source, docs/ in the package.\n"
        f'name = "{joined.identity.id.name}"\n'
        f'trust-domain = "{token.member.trust_domain}"\n'
        f'ca = "{joined.ca}"\n'
        f'ca-control = "{joined.control}"\n'
        f'listen = "{place.listen}"\n'
        f'advertise = "{place.advertise}"\n'
    )
