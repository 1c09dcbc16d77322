"""`lockgate blast-radius`: what somebody with an agent, node or tool in hand could reach."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.clock import SystemClock
from pki.errors import LocalError, RefusedError
from sidecar.cli import policy_texts
from sidecar.cli.operator import acting
from sidecar.cli.policy_explain import roster_of, status_of
from sidecar.cli.policy_texts import ACTIVE
from sidecar.cli.policy_words import table
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.stops import parse_target
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.policy.blast import Blast, Reach
    from sidecar.policy.model import Policy
    from sidecar.snapshot import Target

KINDS = ("agent", "service", "segment", "node", "serial")
MAX_ROWS = 100
"""On a terminal; --json has all."""


@click.command("blast-radius")
@click.argument("what")
@click.option("--policy", "reference", default=ACTIVE, metavar="FILE|N", help="By a file, or an old version.")
@click.option(
    "--svg", "picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw it, too; not over a file."
)
@settings_options
def blast_radius(settings: Settings, what: str, reference: str, picture: Path | None) -> int:
    """Say what WHAT reaches: agent:N, service:N, segment:N, node:N, serial:HEX.

    Directly, and with one escalation, by what is at stake and by risk. A node also reaches the tools beside it, past
    every rule. Locks are not looked at. The owner of a serial is asked of the CA, which takes an operator.
    """
    from sidecar.policy.blast import blast

    policy = policy_texts.resolve(settings, reference).load()
    assert policy is not None  # noqa: S101 - a file or a version
    target = _known(_subject(settings, what), policy)
    found = blast(policy, target, roster_of(status_of(settings), policy), SystemClock().wall())
    if picture is not None:
        _draw(found, picture)
    settings.emit(_row(found), _text(found))
    return Exit.YES


def _subject(settings: Settings, what: str) -> "Target":
    from sidecar.snapshot import Target

    kind, value = parse_target(what, KINDS)
    return _owner(settings, value) if kind == "serial" else Target(kind, value)


def _owner(settings: Settings, serial: str) -> "Target":
    """Who has a certificate of this serial: a node, or a session, which can do what its agent can."""
    from pki.spiffe import IdKind, SpiffeId
    from sidecar.snapshot import Target

    with acting(settings) as operator:
        answer = operator.call_ca("GET", f"/v1/certificates/{serial}", None).json
    owner = SpiffeId.parse(answer["spiffe_id"])
    settings.say(f"serial {serial} is of {owner}")
    if owner.kind in (IdKind.AGENT, IdKind.NODE):
        return Target(str(owner.kind), owner.name)
    raise RefusedError(f"{owner} reaches no tool; `lockgate status` says its roles")


def _known(target: "Target", policy: "Policy") -> "Target":
    """A name that is mistyped must not look harmless."""
    from sidecar.toml import did_you_mean

    named = {"agent": policy.agents, "service": policy.services, "segment": policy.segments}.get(target.kind)
    if named is not None and target.value not in named:
        hint = did_you_mean(target.value, named)
        raise LocalError(f"{target}: not in the policy" + (f"; {hint}" if hint else ""))
    return target


def _draw(found: "Blast", picture: Path) -> None:
    from sidecar.policy.graph import svg

    try:
        with picture.open("x", encoding="utf-8") as file:
            file.write(svg(found))
    except OSError as error:
        raise LocalError(f"{picture}: {error.strerror}") from None


def _text(found: "Blast") -> str:
    if not found.reaches:
        return f"{found.subject} reaches nothing"
    lines = [f"{found.subject} reaches {len(found.reaches)} things, at worst of {found.worst} risk", ""]
    lines += [
        table(
            ("RISK", "AGENT", "SERVICE", "OPERATION", "CLASS", "BY", ""),
            map(_cells, found.reaches[:MAX_ROWS]),
        )
    ]
    if len(found.reaches) > MAX_ROWS:
        lines.append(f"... and {len(found.reaches) - MAX_ROWS} more; --json has all")
    if found.stakes:
        rows = ((one.label, one.risk, "if approved" if one.escalated else "now") for one in found.stakes)
        lines += ["", table(("AT STAKE", "RISK", "WHEN"), rows)]
    return "\n".join(lines)


def _cells(one: "Reach") -> tuple[str, ...]:
    how = f"escalation {one.rule}" if one.escalated else one.rule
    return (
        one.risk,
        one.agent or "(the node)",
        one.service,
        one.operation,
        one.operation_class,
        how,
        ", ".join(one.conditions),
    )


def _row(found: "Blast") -> dict[str, Any]:
    return {
        "subject": str(found.subject),
        "worst": found.worst,
        "stakes": [
            {"label": one.label, "risk": one.risk, "escalated": one.escalated} for one in found.stakes
        ],
        "reaches": [
            {
                "agent": one.agent,
                "service": one.service,
                "operation": one.operation,
                "class": one.operation_class,
                "segment": one.segment,
                "risk": one.risk,
                "labels": list(one.labels),
                "rule": one.rule,
                "escalated": one.escalated,
                "conditions": list(one.conditions),
            }
            for one in found.reaches
        ],
    }
