"""`lockgate policy check | apply | show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.errors import ConfigError, Fault, LocalError, LockgateError
from sidecar.cli.operator import acting
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.wait import report, wait_option
from sidecar.control.client import call
from sidecar.defaults import TOML_BYTES
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.snapshot import Roster

POLICY_NAME = "policy"
"""What the CA calls the file in its faults: it never sees its name."""

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
@settings_options
def policy(settings: Settings) -> None:
    """What agents may reach."""


@policy.command()
@file_argument
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@settings_options
def check(settings: Settings, file: Path, strict: bool) -> int:
    """Check a policy file: every fault at once, with its line.

    Against the roster, too, when the daemon of this directory answers.
    """
    rows = _findings(_read(file), str(file), *_surroundings(settings))
    bad = any(row["severity"] == "error" or strict for row in rows)
    lines = [
        f"{row['where']}: {row['severity']}: {row['what']}" + (f" ({row['hint']})" if row["hint"] else "")
        for row in rows
    ]
    text = "\n".join([*lines, f"{file}: {'refused' if bad else 'good'}"])
    settings.emit({"file": str(file), "good": not bad, "findings": rows}, text)
    return Exit.NO if bad else Exit.YES


@policy.command()
@file_argument
@wait_option
@settings_options
def apply(settings: Settings, file: Path, wait: int) -> int:
    """Put a policy in force on every node. Needs an operator with the role admin."""
    with acting(settings) as operator:
        try:
            text = _read(file).decode()
        except UnicodeDecodeError:
            raise LocalError(f"{file}: not UTF-8 text") from None
        try:
            answer = operator.call_ca("POST", "/v1/policy", {"text": text}).json
        except ConfigError as error:
            faults = [Fault(_renamed(one.where, file), one.what, one.hint) for one in error.faults]
            raise ConfigError(faults) from None
        for warning in answer["warnings"]:
            settings.say(_renamed(warning, file))
        return report(
            settings, answer, wait, f"policy {answer['sequence']} ({answer['digest'][:12]}) applied"
        )


@policy.command()
@settings_options
def show(settings: Settings) -> int:
    """Print the policy in force here. Its sequence and digest go to stderr, so that stdout is the file."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/policy")
    settings.say(f"policy {answer['sequence']}, SHA-256 {answer['digest']}")
    settings.emit(answer, answer["text"].rstrip("\n"))
    return Exit.YES


def _surroundings(settings: Settings) -> tuple["Roster | None", bool | None]:
    """The roster, and whether this is a dev mesh, as far as anything here can tell."""
    from sidecar.snapshot import NodeMember, Roster

    try:
        answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    except LockgateError:
        return None, settings.is_dev
    return Roster({name: NodeMember(name, (), "", (), ()) for name in answer["nodes"]}, {}), answer["dev"]


def _findings(data: bytes, name: str, roster: "Roster | None", dev: bool | None) -> list[dict[str, Any]]:
    """What is wrong with a policy, as rows to print."""
    from pki.clock import SystemClock
    from sidecar.policy.check import Severity
    from sidecar.policy.check import check as examine
    from sidecar.policy.load import load_policy

    try:
        loaded = load_policy(data, name)
    except ConfigError as error:
        return [_row(Severity.ERROR, one.where, one.what, one.hint) for one in error.faults]
    now = SystemClock().wall()
    found = examine(loaded, roster, now=now, dev=dev is True)
    # Nobody knows whether this policy is for `lockgate dev`, where root may be an agent: then that is a warning.
    certain = found if dev is not None else examine(loaded, roster, now=now, dev=True)
    return [
        _row(
            one.severity if one in certain else Severity.WARNING,
            f"{name}:{one.line}" if one.line else name,
            one.what,
            one.hint,
        )
        for one in found
    ]


def _row(severity: str, where: str, what: str, hint: str) -> dict[str, Any]:
    return {"severity": str(severity), "where": where, "what": what, "hint": hint}


def _renamed(text: str, file: Path) -> str:
    return f"{file}{text.removeprefix(POLICY_NAME)}" if text.startswith(POLICY_NAME) else text


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as source:
            data = source.read(TOML_BYTES + 1)
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}") from None
    if len(data) > TOML_BYTES:
        raise LocalError(f"{file}: a policy has at most {TOML_BYTES} bytes")
    return data
