"""lockgate policy check | apply | show"""

from pathlib import Path
from typing import Any

import click

from pki.errors import ConfigError, LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.wait import report, wait_for, wait_option
from sidecar.exits import Exit


@click.group()
@settings_options
def policy(settings: Settings) -> None:
    """What agents may reach."""


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@settings_options
def check(settings: Settings, file: Path, strict: bool) -> int:
    """Check a policy file offline: every fault at once, with its line."""
    from pki.clock import SystemClock
    from sidecar.policy.check import Severity
    from sidecar.policy.check import check as examine
    from sidecar.policy.load import load_policy

    try:
        loaded = load_policy(_read(file), str(file))
    except ConfigError as error:
        rows = [{"severity": "error", "where": one.where, "what": one.what, "hint": one.hint} for one in error.faults]
        return _verdict(settings, file, rows, strict)
    now = SystemClock().wall()
    found = examine(loaded, now=now, dev=settings.is_dev is True)
    # Offline nobody knows whether this policy is for `lockgate dev`, where root may be an agent: then it is a warning.
    certain = found if settings.is_dev is False else examine(loaded, now=now, dev=True)
    rows = [
        {
            "severity": "error" if one.severity is Severity.ERROR and one in certain else "warning",
            "where": f"{file}:{one.line}",
            "what": one.what,
            "hint": one.hint,
        }
        for one in found
    ]
    return _verdict(settings, file, rows, strict)


@policy.command()
@click.argument("file", type=click.Path(path_type=Path))
@wait_option
@settings_options
def apply(settings: Settings, file: Path, wait: int) -> int:
    """Put a policy in force on every node. Needs an operator with the role admin."""
    from sidecar.operator import OperatorCredential

    operator = OperatorCredential.load(settings.operator_folder)
    try:
        text = _read(file).decode()
    except UnicodeDecodeError:
        raise LocalError(f"{file}: not UTF-8 text") from None
    answer = operator.call_ca("POST", "/v1/policy", {"text": text}).json
    for warning in answer["warnings"]:
        settings.say(f"warning: {warning.replace('policy:', f'{file}:', 1)}")
    return report(settings, answer, wait_for(settings, answer["id"], wait), f"policy {answer['digest'][:12]} applied")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}") from None


def _verdict(settings: Settings, file: Path, rows: list[dict[str, Any]], strict: bool) -> int:
    bad = any(row["severity"] == "error" or strict for row in rows)
    lines = [
        f"{row['where']}: {row['severity']}: {row['what']}" + (f" ({row['hint']})" if row["hint"] else "")
        for row in rows
    ]
    text = "\n".join([*lines, f"{file}: {'refused' if bad else 'good'}"])
    settings.emit({"file": str(file), "good": not bad, "findings": rows}, text)
    return Exit.NO if bad else Exit.YES


