"""`lockgate lock | unlock | revoke | unrevoke`: stop agents, now, everywhere, and let them on again."""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pki.clock import DAY, MINUTE
from pki.ids import is_id
from pki.spiffe import is_name
from sidecar import defaults
from sidecar.cli.dry_run import would_stop
from sidecar.cli.operator import acting
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import DURATION, ID, TIME, clock_time, printable
from sidecar.cli.wait import report, wait_option
from sidecar.control.client import call
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.statement import Lock, Revocation

REVOCABLE = ("agent", "session", "node", "operator", "serial")
DATED = ("agent", "session", "node", "operator")
"""What has one certificate after the other."""
LOCKABLE = ("all", "segment", "service", *REVOCABLE)

REVOCATION_LIFE = 15 * DAY
"""The longest a certificate can matter: a node's 7 days, 7 days of grace and 5 minutes, rounded up to days."""

DEMAND_LIFE = 5 * MINUTE
"""A wish for now: nobody who gets hold of it brings it to the CA tomorrow."""


dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Stop nothing; say what it would stop, and which live streams here it would cut.",
)

as_ca_option = click.option(
    "--as-ca",
    is_flag=True,
    help="Let the CA itself sign: root on the CA's host, with its --dir. Reaches admins too.",
)


@click.command()
@click.argument("target", metavar="TARGET|ls")
@click.option("--message", default="", help="Shown to those who are refused.")
@click.option("--ttl", type=DURATION, default="1h", show_default=True, help="At most 4h.")
@dry_run_option
@as_ca_option
@wait_option
@settings_options
def lock(
    settings: Settings, target: str, message: str, ttl: int, dry_run: bool, wait: int, as_ca: bool
) -> int:
    """Stop TARGET for a while: all, segment:N, service:N, agent:N, session:ID, node:N, operator:N, serial:HEX.

    `lock all` is the kill switch, `lock ls` lists the locks in force. Needs an operator with the role responder.
    """
    if target == "ls":
        return _list(settings, "locks")
    from pki.statement import Lock, Target

    if not 0 < ttl <= defaults.OPERATOR_LOCK_MAX_TTL:
        raise click.UsageError("--ttl: more than 0 and at most 4h")
    kind, value = parse_target(target, LOCKABLE)
    if dry_run:
        return would_stop(settings, "lock", (kind, value))
    body = Lock(target=Target(kind=kind, value=value), message=message)  # type: ignore[arg-type]  # checked above
    return _publish(settings, body, Order(ttl, wait, f"locked {target}", as_ca))


@click.command()
@click.argument("target", metavar="TARGET|ls")
@click.option("--message", default="", help="Kept with the revocation.")
@click.option(
    "--issued-before", type=TIME, default=None, help="Only certificates issued before then. Needs --as-ca."
)
@dry_run_option
@as_ca_option
@wait_option
@settings_options
def revoke(
    settings: Settings,
    target: str,
    message: str,
    issued_before: int | None,
    dry_run: bool,
    wait: int,
    as_ca: bool,
) -> int:
    """Stop TARGET for good: agent:N, session:ID, node:N, operator:N, serial:HEX. `revoke ls` lists them.

    Needs an operator with the role responder. The CA may be away: nodes tell each other.
    """
    if target == "ls":
        return _list(settings, "revocations")
    if issued_before is not None:
        if dry_run:
            raise click.UsageError("--dry-run: of a whole revocation; leave --issued-before out")
        if not as_ca:
            raise click.UsageError("--issued-before: by the CA only, so with --as-ca")
        return _cut_off(settings, target, message, issued_before, wait)
    from pki.statement import Revocation, Target

    kind, value = parse_target(target, REVOCABLE)
    if dry_run:
        return would_stop(settings, "revocation", (kind, value))
    body = Revocation(target=Target(kind=kind, value=value), message=message)  # type: ignore[arg-type]  # checked above
    return _publish(settings, body, Order(REVOCATION_LIFE, wait, f"revoked {target}", as_ca))


@click.command()
@click.argument("lock_id", metavar="ID", type=ID)
@as_ca_option
@wait_option
@settings_options
def unlock(settings: Settings, lock_id: str, wait: int, as_ca: bool) -> int:
    """Lift a lock by its id (`lock ls`). `lock all` needs another operator than the one who locked."""
    from pki.statement import Demand

    if as_ca:
        answer = call(settings.paths.admin_sock, "POST", "/v1/unlocks", {"id": lock_id})
        return report(settings, answer, wait, f"unlocked {lock_id}")
    with acting(settings) as operator:
        demand = operator.sign("demand", Demand(action="unlock", ids=[lock_id]), DEMAND_LIFE)
        answer = operator.call_ca("POST", "/v1/lifts", {"demand": demand.raw}).json
        return report(settings, answer, wait, f"unlocked {lock_id}")


@click.command()
@click.argument("revocation_id", metavar="ID", type=ID)
@click.option("--mistake", is_flag=True, help="Revive its certificates too. Needs the role admin.")
@as_ca_option
@wait_option
@settings_options
def unrevoke(settings: Settings, revocation_id: str, mistake: bool, wait: int, as_ca: bool) -> int:
    """Lift a revocation by its id (`revoke ls`): the name may come back.

    Certificates that it had before stay revoked, so it joins again or starts new sessions.
    """
    from pki.statement import Demand

    done = f"unrevoked {revocation_id}"
    if as_ca:
        wanted = {"id": revocation_id, "mistake": mistake}
        return report(settings, call(settings.paths.admin_sock, "POST", "/v1/unrevokes", wanted), wait, done)
    with acting(settings) as operator:
        body = Demand(action="unrevoke", ids=[revocation_id], mistake=mistake)
        demand = operator.sign("demand", body, DEMAND_LIFE)
        answer = operator.call_ca("POST", "/v1/lifts", {"demand": demand.raw}).json
        return report(settings, answer, wait, done)


def parse_target(text: str, kinds: tuple[str, ...]) -> tuple[str, str]:
    """``all`` or ``kind:value`` of the command line; a usage error names what is possible."""
    kind, _, value = text.partition(":")
    if kind not in kinds or (kind == "all") is bool(value):
        possible = ", ".join(one if one == "all" else f"{one}:..." for one in kinds)
        raise click.UsageError(f"target {text!r}: one of {possible}")
    if kind == "serial":
        value = value.lower().replace(":", "").lstrip("0")
    wrong = _fault(kind, value)
    if wrong:
        raise click.UsageError(f"target {text!r}: not {wrong}")
    return kind, value


def _fault(kind: str, value: str) -> str:
    """What ``value`` should be and is not; empty for one that is."""
    match kind:
        case "session":
            return "" if is_id(value) else "an id of 26 characters a-z and 2-7"
        case "serial":
            is_serial = 0 < len(value) <= 40 and set(value) <= set("0123456789abcdef")
            return "" if is_serial else "a serial of 1 to 40 hex digits"
        case _:
            return "" if kind == "all" or is_name(value) else "a name of a-z, 0-9 and inner hyphens"


@dataclass(frozen=True)
class Order:
    """How long a stop lives, how long to wait for it (both us), and what it is called when done."""

    life: int
    wait: int
    done: str
    as_ca: bool


def _publish(settings: Settings, body: "Lock | Revocation", order: Order) -> int:
    from pki.fields import MAX_MESSAGE_CHARS

    if len(body.message) > MAX_MESSAGE_CHARS:
        raise click.UsageError(f"--message: at most {MAX_MESSAGE_CHARS} characters")
    kind = type(body).__name__.lower()
    if order.as_ca:
        target = {"kind": body.target.kind, "value": body.target.value}
        wanted = {"kind": kind, "target": target, "message": body.message, "life": order.life}
        return _order(settings, wanted, order.wait, order.done)
    with acting(settings) as operator:
        statement = operator.sign(kind, body, order.life)
        envelope = base64.b64encode(statement.raw).decode()
        answer = call(settings.paths.admin_sock, "POST", "/v1/statements", {"envelope": envelope})
        return report(settings, answer, order.wait, f"{order.done} ({answer['id']})")


def _cut_off(settings: Settings, target: str, message: str, before: int, wait: int) -> int:
    kind, value = parse_target(target, DATED)
    named = {"kind": kind, "value": value}
    wanted = {
        "kind": "cutoff",
        "target": named,
        "message": message,
        "life": REVOCATION_LIFE,
        "before": before,
    }
    return _order(settings, wanted, wait, f"revoked {target} as issued before {clock_time(before)}")


def _order(settings: Settings, wanted: dict[str, Any], wait: int, done: str) -> int:
    """Let the CA sign."""
    answer = call(settings.paths.admin_sock, "POST", "/v1/orders", wanted)
    return report(settings, answer, wait, f"{done} ({answer['id']})")


def _list(settings: Settings, what: str) -> int:
    answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    lines = [
        f"{one['id']}  {one['target']}  by {one['by']}"
        + (f"  until {clock_time(one['until'])}" if "until" in one else "")
        + (f"  as issued before {clock_time(one['before'])}" if "before" in one else "")
        + (f"  {printable(one['message'])}" if one.get("message") else "")
        for one in answer[what]
    ]
    settings.emit({what: answer[what]}, "\n".join(lines) or f"no {what} in force")
    return Exit.YES
