"""`lockgate policy apply | approve | rollback`: what changes the policy in force. Each shows the difference first."""

import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pki.errors import ConfigError, Fault, LocalError, RefusedError
from sidecar.cli import policy_texts
from sidecar.cli.operator import acting
from sidecar.cli.policy_texts import Text
from sidecar.cli.policy_words import difference_rows, difference_text
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import NAME, clock_time
from sidecar.cli.wait import report, wait_option
from sidecar.defaults import TOML_BYTES
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.operator import OperatorCredential
    from sidecar.policy.diff import Difference

POLICY_NAME = "policy"
"""What the CA calls the file in its faults: it never sees its name."""

MAX_WARNINGS = 50

F = TypeVar("F", bound=Callable[..., Any])

large_option = click.option("--large", is_flag=True, help="Take up to 32 MiB: a program wrote it.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def terms_options(command: F) -> F:
    """On which nodes, and at whose cost."""
    canary = click.option(
        "--canary", type=NAME, multiple=True, metavar="NODE", help="On this node only; the others stay."
    )
    strand = click.option(
        "--strand",
        type=NAME,
        multiple=True,
        metavar="NODE",
        help="Even if this node lacks what it requires.",
    )
    return canary(strand(command))


@dataclass(frozen=True)
class Wanted:
    """What is to be put in force, and how."""

    text: Text
    canary: tuple[str, ...]
    strand: tuple[str, ...]
    yes: bool
    wait: int


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@yes_option
@terms_options
@large_option
@wait_option
@settings_options
def apply(
    settings: Settings,
    file: Path,
    yes: bool,
    canary: tuple[str, ...],
    strand: tuple[str, ...],
    large: bool,
    wait: int,
) -> int:
    """Put a policy in force on every node. Needs an operator with the role admin.

    Shows what agents gain and lose by it, and asks. Where the policy in force wants two operators, it waits for
    `lockgate policy approve` by the other.
    """
    with acting(settings) as operator:
        text = policy_texts.of_file(file, large=large)
        return _put_in_force(settings, operator, Wanted(text, canary, strand, yes, wait))


@click.command()
@click.argument("sequence", type=click.IntRange(min=1))
@yes_option
@terms_options
@wait_option
@settings_options
def rollback(
    settings: Settings, sequence: int, yes: bool, canary: tuple[str, ...], strand: tuple[str, ...], wait: int
) -> int:
    """Put an old version in force again, under a new sequence. `lockgate policy ls` lists them."""
    with acting(settings) as operator:
        text = policy_texts.version(operator, str(sequence))
        return _put_in_force(settings, operator, Wanted(text, canary, strand, yes, wait))


@click.command()
@click.argument("digest")
@yes_option
@wait_option
@settings_options
def approve(settings: Settings, digest: str, yes: bool, wait: int) -> int:
    """Confirm what another operator proposed. Needs the role approver or admin."""
    with acting(settings) as operator:
        _require(operator, "approver", "admin")
        proposal = _proposal(operator, digest)
        text = policy_texts.version(operator, proposal["digest"])
        settings.say(f"proposed by {proposal['author']} at {clock_time(proposal['at'])}{_on(proposal)}")
        found = _shown(settings, policy_texts.version(operator, policy_texts.ACTIVE), text)
        _ask(f"Approve {text.name}?", yes=yes)
        approval = {
            "digest": proposal["digest"],
            "base": proposal["base"],
            "canary": proposal["nodes"],
            "strand": proposal["strand"],
        }
        answer = operator.call_ca("POST", "/v1/approvals", approval).json
        return _reported(settings, answer, found, wait)


def _put_in_force(settings: Settings, operator: "OperatorCredential", wanted: Wanted) -> int:
    _require(operator, "admin")
    base = policy_texts.version(operator, policy_texts.ACTIVE)
    found = _shown(settings, base, wanted.text)
    _ask(f"Apply {wanted.text.name}?", yes=wanted.yes)
    answer = _send(operator, base, wanted)
    for warning in answer["warnings"][:MAX_WARNINGS]:
        settings.say(_renamed(warning, wanted.text.name))
    if (more := len(answer["warnings"]) - MAX_WARNINGS) > 0:
        settings.say(f"... and {more} warnings more; lockgate policy check has all")
    return _reported(settings, answer, found, wanted.wait)


def _shown(settings: Settings, base: Text, text: Text) -> "Difference":
    """What changes, said to whom it may concern."""
    from pki.clock import SystemClock
    from sidecar.policy.diff import difference

    after = text.load()
    if after is None:
        raise LocalError(f"{text.name}: there is no policy yet")
    found = difference(base.load(), after, SystemClock().wall())
    settings.say(difference_text(found))
    return found


def _require(operator: "OperatorCredential", *roles: str) -> None:
    """Nobody reads a long difference to hear then that it is not for them; the CA judges again. Raises RefusedError."""
    held = operator.call_ca("GET", "/v1/status", None).json["you"]["roles"]
    if not set(roles) & set(held):
        raise RefusedError(f"{operator.author}: needs the role {' or '.join(roles)}")


def _ask(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise LocalError("no terminal to ask on: read the difference, then say it with --yes")
    if not click.confirm(question, err=True):
        raise LocalError("not applied")


def _send(operator: "OperatorCredential", base: Text, wanted: Wanted) -> dict[str, Any]:
    from sidecar.packed import pack

    text = wanted.text
    wish = {
        "packed": b64encode(pack(text.data)).decode(),
        "base": base.digest,
        "canary": list(wanted.canary),
        "strand": list(wanted.strand),
        "large": len(text.data) > TOML_BYTES,
    }
    try:
        answer: dict[str, Any] = operator.call_ca("POST", "/v1/policy", wish).json
    except ConfigError as error:
        faults = [Fault(_renamed(one.where, text.name), one.what, one.hint) for one in error.faults]
        raise ConfigError(faults) from None
    return answer


def _reported(settings: Settings, answer: dict[str, Any], found: "Difference", wait: int) -> int:
    answer = {**answer, "difference": difference_rows(found)}
    short = answer["digest"][:12]
    if answer["state"] == "applied":
        return report(settings, answer, wait, f"policy {answer['sequence']} ({short}) applied")
    until = clock_time(answer["expires"])
    text = f"proposed: until {until}, another admin or approver may run: lockgate policy approve {short}"
    settings.emit(answer, text)
    return Exit.UNCONFIRMED


def _proposal(operator: "OperatorCredential", digest: str) -> dict[str, Any]:
    """The one proposal whose digest begins so; raises RefusedError."""
    listing = operator.call_ca("GET", "/v1/policies", None).json
    found: list[dict[str, Any]] = [one for one in listing["proposals"] if one["digest"].startswith(digest)]
    if len(found) != 1:
        how_many = "several proposals" if found else "no proposal"
        raise RefusedError(f"{how_many} of digest {digest[:64]!a}; `lockgate policy ls` lists them")
    return found[0]


def _on(proposal: dict[str, Any]) -> str:
    """The terms of a proposal, where there are any."""
    canary = f", on {', '.join(proposal['nodes'])} only" if proposal["nodes"] else ""
    return canary + (f", stranding {', '.join(proposal['strand'])}" if proposal["strand"] else "")


def _renamed(text: str, name: str) -> str:
    return f"{name}{text.removeprefix(POLICY_NAME)}" if text.startswith(POLICY_NAME) else text
