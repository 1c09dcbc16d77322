"""lockgate lock | unlock | revoke: stop agents, now, everywhere."""

import base64
import re

import click

from pki.errors import LocalError
from pki.ids import is_id
from sidecar import defaults
from sidecar.cli.ca import duration
from sidecar.cli.node import clock_time
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.wait import report, wait_for, wait_option
from sidecar.control.client import call
from sidecar.exits import Exit

LOCKABLE = ("segment", "service", "agent", "session", "node", "operator", "serial")
REVOCABLE = ("agent", "session", "node", "operator", "serial")

REVOCATION_LIFE = 8 * 24 * 3600 * 1_000_000
"""The longest a certificate can matter: a node's day, its 7 days of grace, and 5 minutes, rounded up to days."""


@click.command()
@click.argument("target", metavar="TARGET|ls")
@click.option("--message", default="", help="Shown to those who are refused.")
@click.option("--ttl", default="1h", show_default=True, help="At most 4h.")
@wait_option
@settings_options
def lock(settings: Settings, target: str, message: str, ttl: str, wait: int) -> int:
    """Stop TARGET for a while: all, segment:N, service:N, agent:N, session:ID, node:N, operator:N, serial:HEX.

    `lock all` is the kill switch, `lock ls` lists the locks in force. Needs an operator with the role responder.
    """
    if target == "ls":
        return _list(settings, "locks")
    from pki.statement import Lock, Target

    life = duration(ttl, "--ttl")
    if not 0 < life <= defaults.OPERATOR_LOCK_MAX_TTL:
        raise click.UsageError("--ttl: more than 0 and at most 4h")
    kind, value = parse_target(target, LOCKABLE, allow_all=True)
    body = Lock(target=Target(kind=kind, value=value), message=message)  # type: ignore[arg-type]  # checked above
    return _publish(settings, "lock", body, life, wait, f"locked {target}")


@click.command()
@click.argument("target", metavar="TARGET|ls")
@click.option("--message", default="", help="Kept with the revocation.")
@wait_option
@settings_options
def revoke(settings: Settings, target: str, message: str, wait: int) -> int:
    """Stop TARGET for good: agent:N, session:ID, node:N, operator:N, serial:HEX. `revoke ls` lists them.

    Needs an operator with the role responder. The CA may be away: nodes tell each other.
    """
    if target == "ls":
        return _list(settings, "revocations")
    from pki.statement import Revocation, Target

    kind, value = parse_target(target, REVOCABLE, allow_all=False)
    body = Revocation(target=Target(kind=kind, value=value), message=message)  # type: ignore[arg-type]  # checked above
    return _publish(settings, "revocation", body, REVOCATION_LIFE, wait, f"revoked {target}")


@click.command()
@click.argument("lock_id")
@wait_option
@settings_options
def unlock(settings: Settings, lock_id: str, wait: int) -> int:
    """Lift a lock by its id (`lock ls`). `lock all` needs another operator than the one who locked."""
    if not is_id(lock_id):
        raise click.UsageError("name the lock by its 26-character id; `lockgate lock ls` lists them")
    from pki.statement import Demand
    from sidecar.operator import OperatorCredential

    operator = OperatorCredential.load(settings.operator_folder)
    demand = operator.sign("demand", Demand(action="unlock", ids=[lock_id]), defaults.LOCK_TTL)
    answer = operator.call_ca("POST", "/v1/lifts", {"demand": demand.raw}).json
    return report(settings, answer, wait_for(settings, answer["id"], wait), f"unlocked {lock_id}")


def parse_target(text: str, kinds: tuple[str, ...], *, allow_all: bool) -> tuple[str, str]:
    """``kind:value`` of the command line; a usage error names what is possible."""
    if text == "all" and allow_all:
        return "all", ""
    kind, _, value = text.partition(":")
    possible = (["all"] if allow_all else []) + [f"{one}:..." for one in kinds]
    if kind not in kinds or not value:
        raise click.UsageError(f"target {text!r}: one of {', '.join(possible)}")
    if kind == "serial":
        value = value.lower().replace(":", "").lstrip("0")
    good = {
        "session": is_id(value),
        "serial": re.fullmatch(r"[0-9a-f]{1,40}", value) is not None,
    }.get(kind, re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value) is not None)
    if not good:
        raise click.UsageError(f"target {text!r}: not the {'id' if kind == 'session' else 'name'} of a {kind}")
    return kind, value


def _publish(settings: Settings, kind: str, body: object, life: int, wait: int, done: str) -> int:
    from pki.statement import Wire
    from sidecar.operator import OperatorCredential

    if not isinstance(body, Wire):
        raise LocalError(f"{kind}: not a statement body")
    operator = OperatorCredential.load(settings.operator_folder)
    statement = operator.sign(kind, body, life)
    envelope = base64.b64encode(statement.raw).decode()
    answer = call(settings.paths.admin_sock, "POST", "/v1/statements", {"envelope": envelope})
    return report(settings, answer, wait_for(settings, answer["id"], wait), f"{done} ({answer['id']})")


def _list(settings: Settings, what: str) -> int:
    answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    lines = [
        f"{one['id']}  {one['target']}  by {one['by']}"
        + (f"  until {clock_time(one['until'])}" if "until" in one else "")
        + (f"  {one['message']}" if one.get("message") else "")
        for one in answer[what]
    ]
    settings.emit({what: answer[what]}, "\n".join(lines) or f"no {what} in force")
    return Exit.YES
