"""`lockgate ca export`: the trust bundle and the revoked certificates in formats that others read."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.authority.keystore import Authority

FORMATS = ("jwks", "pem", "crl")


@click.command()
@click.argument("what", type=click.Choice(FORMATS))
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
@settings_options
def export(settings: Settings, what: str, out: Path | None) -> int:
    """Print the roots as a SPIFFE bundle (jwks) or PEM, or what was revoked as a CRL, on the CA's host."""
    from pki.authority.keystore import open_online

    authority = open_online(settings.paths.authority_dir)
    text = _text(what, settings, authority).decode()
    if out is not None:
        out.write_text(text)
        text = ""
    settings.emit(
        {"format": what, "file": str(out) if out else None, "text": text or None}, text.rstrip("\n")
    )
    return Exit.YES


def _text(what: str, settings: Settings, authority: "Authority") -> bytes:
    from pki.authority.export import spiffe_bundle
    from pki.chain import to_pem

    if what == "jwks":
        return spiffe_bundle(authority.bundle)
    return to_pem(authority.bundle.roots) if what == "pem" else _crl(settings, authority)


def _crl(settings: Settings, authority: "Authority") -> bytes:
    from pki.authority.export import crl
    from pki.authority.keystore import REGISTER_FILE
    from pki.authority.register import Register
    from pki.certificate import read
    from pki.clock import SystemClock

    issuer, now = authority.issuer, SystemClock().wall()
    with Register.open(settings.paths.authority_dir / REGISTER_FILE) as register:
        revoked = register.revoked(read(issuer.certificate).subject_key_id.hex(), now)
        return crl(issuer, revoked, register.next_sequence("crl"), now)
