"""`lockgate ca status`: who holds which certificate, by which token, and which keys of the CA want a successor."""

from typing import TYPE_CHECKING, Any

import click

from pki.errors import LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import clock_time
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.authority.ages import KeyAge
    from pki.authority.holdings import Holding
    from pki.clock import Wall


@click.command()
@settings_options
def status(settings: Settings) -> int:
    """List members and the CA's keys, on its host. Exit code 1: a key wants a successor, or somebody has not renewed."""
    from pki.authority.ages import key_ages, overdue
    from pki.authority.keystore import REGISTER_FILE
    from pki.authority.register import Register
    from pki.clock import SystemClock

    folder, now = settings.paths.authority_dir, SystemClock().wall()
    if not folder.exists():
        raise LocalError(f"{folder}: no CA is here; run this on the CA's host")
    keys, warnings = key_ages(folder), overdue(folder, now)
    with Register.open(folder / REGISTER_FILE) as register:
        held = register.holdings(now)
    warnings += [f"{one.id}: ends soon, and has not renewed" for one in held if one.ends_soon(now)]
    body = {
        "keys": [_key(one, now) for one in keys],
        "members": [_member(one, now) for one in held],
        "warnings": warnings,
    }
    settings.emit(body, "\n".join(_lines(keys, held, warnings)))
    return Exit.NO if warnings else Exit.YES


def _key(one: "KeyAge", now: "Wall") -> dict[str, Any]:
    return {"key": one.part, "not_after": one.not_after, "due": one.is_due(now)}


def _member(one: "Holding", now: "Wall") -> dict[str, Any]:
    return {
        "id": one.id,
        "serial": one.serial,
        "lineage": one.lineage,
        "not_after": one.not_after,
        "by": one.origin,
        "revoked": one.revoked,
        "ends_soon": one.ends_soon(now),
    }


def _lines(keys: "tuple[KeyAge, ...]", held: "list[Holding]", warnings: list[str]) -> list[str]:
    return [
        *(f"{one.part} key until {clock_time(one.not_after)}" for one in keys),
        *(
            f"{one.id}  serial {one.serial}  until {clock_time(one.not_after)}"
            f"{f'  by {one.origin}' if one.origin else ''}{'  revoked' if one.revoked else ''}"
            for one in held
        ),
        *(f"! {one}" for one in warnings),
    ]
