"""lockgate ca init | serve, lockgate token create"""

import secrets
from pathlib import Path

import click

from pki.errors import LocalError
from sidecar import defaults
from sidecar.cli.node import serve as serve_daemon
from sidecar.cli.settings import Settings, settings_options
from sidecar.control.client import call
from sidecar.duration import parse_duration
from sidecar.exits import Exit


@click.group()
@settings_options
def ca(settings: Settings) -> None:
    """The certificate authority of a mesh."""


@ca.command()
@click.option("--trust-domain", required=True, help="The mesh's name in every identity, like mesh.example.org.")
@click.option("--name", default="main", show_default=True, help="The CA's own name.")
@click.option("--listen", help="The API's address (default 0.0.0.0:7444).")
@click.option("--control-listen", help="The address for control links (default 0.0.0.0:7446).")
@click.option("--advertise", help="Where nodes reach the API (default: --listen).")
@click.option("--no-passphrase", is_flag=True, help="Keep the root key without a passphrase.")
@settings_options
def init(
    settings: Settings,
    trust_domain: str,
    name: str,
    listen: str | None,
    control_listen: str | None,
    advertise: str | None,
    no_passphrase: bool,
) -> int:
    """Make a new CA: root, issuing key, statement key and the trust bundle."""
    from pki.authority.keystore import create, open_online
    from pki.clock import SystemClock
    from pki.spiffe import SpiffeId
    from sidecar.gossip.journal import Journal
    from sidecar.lifecycle import make_folders
    from sidecar.operator import passphrase

    paths = settings.paths
    make_folders(paths)
    who = SpiffeId.for_ca(trust_domain, name)
    secret = None if no_passphrase else passphrase("passphrase for the root key", confirm=True)
    create(paths.authority_dir, who, secret, SystemClock().wall(), secrets.token_bytes)
    Journal(paths.statements, create=True).close()
    if not paths.ca_toml.exists():
        text = _ca_toml(name, trust_domain, listen, control_listen, advertise)
        paths.ca_toml.write_text(text)
    pin = next(iter(open_online(paths.authority_dir).pins)).hex()
    settings.emit(
        {"ca": str(who), "root_pin": pin},
        f"made {who}\nroot key pin (SHA-256) {pin}\n"
        "next: lockgate ca serve, then for each node:\n"
        "  lockgate token create node:NAME     on this host, and paste what it prints into\n"
        "  lockgate join -                     on the node",
    )
    return Exit.YES


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
@click.option("--role", "roles", multiple=True, help="Operator: admin, approver, responder or auditor. Repeatable.")
@click.option("--ttl", default="10m", show_default=True, help="How long the token can be used.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the token to this new file (0600) instead.")
@settings_options
def create(settings: Settings, member: str, roles: tuple[str, ...], ttl: str, out: Path | None) -> int:
    """Make a join token, on the CA's host."""
    kind, _, name = member.partition(":")
    if kind not in ("node", "operator") or not name:
        raise click.UsageError("name the member as node:NAME or operator:NAME")
    wanted = {"kind": kind, "name": name, "roles": list(roles), "ttl": duration(ttl, "--ttl")}
    answer = call(settings.paths.admin_sock, "POST", "/v1/tokens", wanted)
    if out is not None:
        from pki.keys import save_private

        save_private(answer["token"].encode(), out)
        answer = {**answer, "token": None, "file": str(out)}
    settings.emit(answer, answer["token"] or f"token written to {out}")
    return Exit.YES


def duration(text: str, option: str) -> int:
    """A duration of the command line in microseconds."""
    try:
        return parse_duration(text)
    except (ValueError, LocalError) as error:
        raise click.UsageError(f"{option}: {error}") from None


def _ca_toml(
    name: str, trust_domain: str, listen: str | None, control: str | None, advertise: str | None
) -> str:
    lines = [
        "# Written by `lockgate ca init`. All keys: config/ca.toml in the source.",
        f'name = "{name}"',
        f'trust-domain = "{trust_domain}"',
        f'listen = "{listen or f"0.0.0.0:{defaults.CA_PORT}"}"',
        f'control-listen = "{control or f"0.0.0.0:{defaults.CA_CONTROL_PORT}"}"',
    ]
    if advertise:
        lines.append(f'advertise = "{advertise}"')
    return "\n".join(lines) + "\n"
