"""`lockgate ca init | serve` and `lockgate token create`."""

import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pki.clock import SECOND
from pki.errors import LocalError
from sidecar import defaults
from sidecar.address import ANY_HOST, Address
from sidecar.cli.ca_export import export
from sidecar.cli.ca_recover import backup, recover
from sidecar.cli.ca_rotate import rotate, taint
from sidecar.cli.ca_status import status
from sidecar.cli.node import serve as serve_daemon
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import ADDRESS, DURATION, NAME, TRUST_DOMAIN
from sidecar.control.client import call
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.authority.keystore import Birth
    from pki.spiffe import SpiffeId
    from pki.svid import Signer

_PATH = click.Path(path_type=Path)


@click.group()
@settings_options
def ca(settings: Settings) -> None:
    """The certificate authority of a mesh."""


@ca.command()
@click.option(
    "--trust-domain",
    type=TRUST_DOMAIN,
    required=True,
    help="The mesh's name in every identity: mesh.example.org",
)
@click.option("--name", type=NAME, default="main", show_default=True, help="The CA's own name.")
@click.option("--listen", type=ADDRESS, help="The API's address (default 0.0.0.0:7444).")
@click.option("--control-listen", type=ADDRESS, help="The address for control links (default 0.0.0.0:7446).")
@click.option("--advertise", type=ADDRESS, help="Where nodes reach the API (default: this host's name).")
@click.option("--root-cert", type=_PATH, help="A root from outside, PEM. Its key stays where it is.")
@click.option("--root-key", type=_PATH, help="The key of that root.")
@click.option("--no-passphrase", is_flag=True, help="Keep the root key without a passphrase.")
@settings_options
def init(
    settings: Settings,
    *,
    trust_domain: str,
    name: str,
    listen: Address | None,
    control_listen: Address | None,
    advertise: Address | None,
    root_cert: Path | None,
    root_key: Path | None,
    no_passphrase: bool,
) -> int:
    """Make a new CA: root, issuing key, statement key and the trust bundle."""
    from pki.authority.keystore import Birth, open_online
    from pki.clock import SystemClock
    from pki.spiffe import SpiffeId
    from sidecar.gossip.journal import Journal
    from sidecar.lifecycle import make_folders

    paths = settings.paths
    if paths.authority_dir.exists():
        raise LocalError(f"{paths.authority_dir}: there is a CA already; give --dir another folder")
    if (root_cert is None) != (root_key is None):
        raise click.UsageError("--root-cert and --root-key go together")
    birth = Birth(SpiffeId.for_ca(trust_domain, name), SystemClock().wall(), secrets.token_bytes)
    outside = _outside(root_cert, root_key, birth)
    secret = outside.secret if outside else None if no_passphrase else _new_passphrase()
    make_folders(paths)
    Journal(paths.statements, create=True).close()
    if not paths.ca_toml.exists():
        paths.ca_toml.write_text(ca_toml(birth.ca, Places(listen, control_listen, advertise)))
    _make(paths.authority_dir, birth, secret, outside)
    who = birth.ca
    pin = next(iter(open_online(paths.authority_dir).pins)).hex()
    settings.emit({"ca": str(who), "root_pin": pin}, _next_steps(settings, who, pin))
    return Exit.YES


@dataclass(frozen=True)
class Outside:
    """A root from outside, where its key is, and the passphrase of that."""

    root: "Signer"
    key: Path
    secret: bytes | None


def _outside(certificate: Path | None, key: Path | None, birth: "Birth") -> Outside | None:
    from pki.authority.outside import outside_root
    from pki.keys import load, load_private
    from sidecar.operator import passphrase

    if certificate is None or key is None:
        return None
    try:
        pem = certificate.read_bytes()
    except OSError as error:
        raise LocalError(f"{certificate}: {error.strerror}") from None
    secret = passphrase("passphrase of the root key") if b"ENCRYPTED" in load_private(key) else None
    return Outside(outside_root(pem, load(key, secret), birth), key, secret)


def _new_passphrase() -> bytes:
    from sidecar.operator import passphrase

    return passphrase("passphrase for the root key", confirm=True)


def _make(folder: Path, birth: "Birth", secret: bytes | None, outside: Outside | None) -> None:
    """Last of all: the keys are what makes it a CA, so what broke off before them is simply done again."""
    from pki.authority.keystore import create, create_below
    from pki.authority.succession import RootAccess, Successor

    if outside is None:
        create(folder, birth.ca, secret, birth.at, birth.entropy)
    else:
        create_below(folder, birth, outside.root)
    Successor(folder, birth, RootAccess(secret, outside.key if outside else None)).stock()


for _verb in (backup, export, recover, rotate, status, taint):
    ca.add_command(_verb)


@ca.command()
@settings_options
def serve(settings: Settings) -> int:
    """Run the CA's daemon in the foreground."""
    import trio

    from sidecar.ca import daemon

    return serve_daemon(lambda: trio.run(daemon.run, settings.paths))


@click.group()
@settings_options
def token(settings: Settings) -> None:
    """Join tokens: single use, for one name."""


@token.command()
@click.argument("member", metavar="node:NAME|operator:NAME")
@click.option("--role", "roles", multiple=True, help="admin, approver, responder or auditor. Repeatable.")
@click.option("--ttl", type=DURATION, default="10m", show_default=True, help="How long it can be used.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the token to this file (0600) instead.")
@settings_options
def create(settings: Settings, member: str, roles: tuple[str, ...], ttl: int, out: Path | None) -> int:
    """Make a join token, on the CA's host."""
    kind, _, name = member.partition(":")
    if kind not in ("node", "operator") or not name:
        raise click.UsageError("name the member as node:NAME or operator:NAME")
    if not SECOND <= ttl <= defaults.TOKEN_MAX_LIFETIME:
        raise click.UsageError("--ttl: at least 1s and at most 7d")
    wanted = {"kind": kind, "name": name, "roles": list(roles), "ttl": ttl}
    answer = call(settings.paths.admin_sock, "POST", "/v1/tokens", wanted)
    if out is not None:
        from pki.keys import save_private

        save_private(answer["token"].encode(), out)
        answer = {**answer, "token": None, "file": str(out)}
    settings.emit(answer, answer["token"] or f"token written to {out}")
    settings.say(
        f"{member} joins with it: lockgate join - (and paste it), or lockgate join --token-file FILE"
    )
    return Exit.YES


@dataclass(frozen=True)
class Places:
    """Where the CA listens, and where its API is reached, as far as the command line says."""

    listen: Address | None
    control: Address | None
    advertise: Address | None


def ca_toml(who: "SpiffeId", places: Places) -> str:
    """The configuration of a new CA."""
    advertise = f'advertise = "{places.advertise}"' if places.advertise else '# advertise = "HOST:7444"'
    return f"""\
# Written by `lockgate ca init`. All keys: config/ca.toml in the source.
name = "{who.name}"
trust-domain = "{who.trust_domain}"
listen = "{places.listen or Address(ANY_HOST, defaults.CA_PORT)}"
control-listen = "{places.control or Address(ANY_HOST, defaults.CA_CONTROL_PORT)}"
{advertise}  # where nodes reach this host, if not by its own name
"""


def _next_steps(settings: Settings, who: "SpiffeId", pin: str) -> str:
    """What to paste next."""
    here = "lockgate" + (f" --dir {shlex.quote(settings.directory)}" if settings.directory else "")
    return f"""made {who}
root key pin (SHA-256) {pin}
next, run it:
  {here} ca serve
become its first operator:
  {here} token create operator:NAME --role admin --role responder | lockgate join -
and for each node:
  {here} token create node:NAME | ssh NAME lockgate join -"""
