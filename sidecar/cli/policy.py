"""`lockgate policy`: look at policies. What changes the one in force is in :mod:`sidecar.cli.policy_apply`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.errors import ConfigError, LocalError
from sidecar.cli import policy_texts
from sidecar.cli.inventory import suggest
from sidecar.cli.operator import acting
from sidecar.cli.policy_apply import apply, approve, large_option, rollback
from sidecar.cli.policy_explain import explain, roster_of, status_of
from sidecar.cli.policy_pin import pin
from sidecar.cli.policy_words import difference_rows, difference_text, permission_row, permission_table, table
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import clock_time
from sidecar.defaults import TOML_BYTES
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.policy.effective import Permission
    from sidecar.policy.trials import Outcome
    from sidecar.snapshot import Roster

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
@settings_options
def policy(settings: Settings) -> None:
    """What agents may reach."""


@policy.command()
@file_argument
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@large_option
@settings_options
def check(settings: Settings, file: Path, strict: bool, large: bool) -> int:
    """Check a policy file: every fault at once, with its line.

    Against the roster, too, when the daemon of this directory answers.
    """
    rows = _findings(policy_texts.of_file(file, large=large).data, str(file), *_surroundings(settings))
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
@click.option(
    "--junit", "report", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML there, too."
)
@large_option
@settings_options
def test(settings: Settings, file: Path, report: Path | None, large: bool) -> int:
    """Run the [[tests]] of a policy file. Exit code 1 when one fails."""
    from pki.clock import SystemClock
    from sidecar.policy.trials import outcomes

    loaded = policy_texts.of_file(file, large=large).load()
    assert loaded is not None  # noqa: S101 - it is a file
    found = outcomes(loaded, SystemClock().wall())
    if report is not None:
        _write_junit(report, str(file), found)
    failed = sum(not one.passed for one in found)
    lines = [table(("LINE", "TEST", "EXPECTED", "", "WHY"), map(_trial_cells, found))] if found else []
    lines.append(f"{file}: {len(found)} tests, {failed} failed")
    settings.emit(
        {"file": str(file), "passed": not failed, "tests": [_trial_row(one) for one in found]},
        "\n".join(lines),
    )
    return Exit.NO if failed else Exit.YES


@policy.command()
@click.option("--version", "sequence", type=click.IntRange(min=1), help="An old one, from the CA.")
@click.option("--permissions", is_flag=True, help="What it permits, agent by agent, instead of its text.")
@settings_options
def show(settings: Settings, sequence: int | None, permissions: bool) -> int:
    """Print the policy in force here. Its sequence and digest go to stderr, so that stdout is the file."""
    text = policy_texts.resolve(settings, str(sequence or policy_texts.ACTIVE))
    settings.say(f"policy {text.sequence}, SHA-256 {text.digest}")
    which = {"sequence": text.sequence, "digest": text.digest}
    if permissions:
        rows = _permissions(text)
        settings.emit({**which, "permissions": [permission_row(one) for one in rows]}, permission_table(rows))
    else:
        body = text.data.decode()
        settings.emit({**which, "text": body}, body.rstrip("\n"))
    return Exit.YES


@policy.command()
@click.argument("before")
@click.argument("after", required=False)
@settings_options
def diff(settings: Settings, before: str, after: str | None) -> int:
    """What agents gain and lose from BEFORE to AFTER: each a file, a version's number, or `active`.

    With one name only, from the policy in force here to that one. Exit code 1 when anything differs.
    """
    from pki.clock import SystemClock
    from sidecar.policy.diff import difference

    sides = (before, after) if after else (policy_texts.ACTIVE, before)
    old, new = (policy_texts.resolve(settings, side) for side in sides)
    becomes = new.load()
    assert becomes is not None  # noqa: S101 - neither a file nor a version is "no policy"
    found = difference(old.load(), becomes, SystemClock().wall())
    settings.emit({"before": old.name, "after": new.name, **difference_rows(found)}, difference_text(found))
    return Exit.NO if found else Exit.YES


@policy.command()
@settings_options
def schema(settings: Settings) -> int:
    """Print the JSON Schema of policy files, for editors: `#:schema ./policy.schema.json` as a policy's first line."""
    from sidecar.policy.reference import schema as made
    from sidecar.policy.reference import schema_text

    settings.emit(made(), schema_text().rstrip("\n"))
    return Exit.YES


@policy.command()
@settings_options
def ls(settings: Settings) -> int:
    """List every version of the policy, and what waits for a second operator."""
    with acting(settings) as operator:
        listing = operator.call_ca("GET", "/v1/policies", None).json
    rows = [
        (
            f"{one['sequence']}{_state(one, listing)}",
            one["digest"][:12],
            clock_time(one["at"]),
            _name(one["author"]),
            _name(one["approver"]),
            ", ".join(one["nodes"]) or "all",
        )
        for one in listing["versions"]
    ]
    text = table(("SEQUENCE", "DIGEST", "APPLIED", "BY", "WITH", "NODES"), rows)
    for one in listing["proposals"]:
        text += (
            f"\nproposed by {_name(one['author'])}: {one['digest'][:12]}, until {clock_time(one['expires'])}"
        )
    settings.emit(listing, text)
    return Exit.YES


def _permissions(text: policy_texts.Text) -> "list[Permission]":
    from pki.clock import SystemClock
    from sidecar.policy.effective import permissions

    loaded = text.load()
    assert loaded is not None  # noqa: S101 - it is a version
    return list(permissions(loaded, SystemClock().wall()))


def _write_junit(path: Path, name: str, found: "list[Outcome]") -> None:
    from sidecar.policy.junit import junit

    try:
        path.write_text(junit(name, found), encoding="utf-8")
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None


def _trial_cells(one: "Outcome") -> tuple[str, ...]:
    verdict = "ok" if one.passed else "FAILED"
    return str(one.test.line), one.title, str(one.test.expect), verdict, one.why


def _trial_row(one: "Outcome") -> dict[str, Any]:
    return {
        "line": one.test.line,
        "test": one.title,
        "expect": one.test.expect,
        "verdict": one.verdict,
        "passed": one.passed,
        "why": one.why,
    }


def _state(one: dict[str, Any], listing: dict[str, Any]) -> str:
    if one["sequence"] == listing["sequence"]:
        return " in force"
    return " canary" if one["sequence"] == listing["canary"] else ""


def _name(author: str) -> str:
    """The last segment of a SPIFFE ID."""
    return author.rpartition("/")[2]


def _surroundings(settings: Settings) -> tuple["Roster | None", bool | None]:
    """The roster, and whether this is a dev mesh, as far as anything here can tell."""
    status = status_of(settings)
    return (roster_of(status, None), status["dev"]) if status else (None, settings.is_dev)


def _findings(data: bytes, name: str, roster: "Roster | None", dev: bool | None) -> list[dict[str, Any]]:
    """What is wrong with a policy, as rows to print."""
    from pki.clock import SystemClock
    from sidecar.policy.check import Severity
    from sidecar.policy.check import check as examine
    from sidecar.policy.load import load_policy

    try:
        loaded = load_policy(data, name, max(TOML_BYTES, len(data)))
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


for _verb in (apply, approve, explain, rollback, pin, suggest):
    policy.add_command(_verb)
