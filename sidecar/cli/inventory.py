"""`lockgate inventory`: who uses what, by which rule or none, from the audit logs."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.clock import Wall
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.since import SINCE
from sidecar.cli.values import clock_time, printable
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.audit.inventory import Inventory, Line
    from sidecar.policy.model import Policy

since_option = click.option(
    "--since", type=SINCE, default=None, help="Records from then on: 7d, 2h, 2026-12-01T09:00:00Z."
)


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@since_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@settings_options
def inventory(settings: Settings, folders: tuple[Path, ...], since: Wall | None, as_csv: bool) -> int:
    """What each agent uses of each service, how often, and by which rule.

    Read are this node's log, or the FOLDERs: copies of several nodes' logs. What only a tool's node sees (requests) is in
    its log alone. Grants that let nothing through are named where the daemon tells which policy is in force.
    """
    found = counted(settings, folders, since)
    rows = [_row(line) for line in found.lines]
    if as_csv:
        click.echo(_csv(rows), nl=False)
        return Exit.YES
    idle = _unused(settings, found)
    lines = [_text(line) for line in found.lines]
    lines += [f"grant {name}: nobody has used it" for name in idle]
    settings.emit({"lines": rows, "unused": idle}, "\n".join(lines) or "nothing on record")
    return Exit.YES


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@since_option
@settings_options
def suggest(settings: Settings, folders: tuple[Path, ...], since: Wall | None) -> int:
    """Grants for what was seen and no rule of the policy in force covers, as TOML to read and prune.

    From this node's log, or the FOLDERs. Exit code 1: there is nothing to suggest.
    """
    from pki.errors import LocalError
    from sidecar.policy.suggest import suggestions

    policy = _in_force(settings)
    if policy is None:
        raise LocalError("policy suggest: no policy is in force here to compare with")
    text = suggestions(counted(settings, folders, since).lines, policy)
    settings.emit({"toml": text}, text.rstrip() or "# every need that is on record is covered")
    return Exit.YES if text else Exit.NO


def counted(settings: Settings, folders: tuple[Path, ...], since: Wall | None) -> "Inventory":
    """The inventory of these logs, or of this node's."""
    from sidecar.audit.inventory import Inventory
    from sidecar.audit.reading import is_since, lines_in, record_of
    from sidecar.disk import RealDisk

    found, disk = Inventory(), RealDisk()
    for folder in folders or (settings.paths.audit_dir,):
        for line in lines_in(disk, folder):
            record = record_of(line)
            if record is not None and is_since(record, since or Wall(0)):
                found.take(record)
    return found


def _unused(settings: Settings, found: "Inventory") -> list[str]:
    from sidecar.audit.inventory import unused

    policy = _in_force(settings)
    return unused([rule.id for rule in policy.grants.rules], found) if policy else []


def _in_force(settings: Settings) -> "Policy | None":
    from pki.errors import LockgateError
    from sidecar.cli.policy_texts import active_here

    try:
        return active_here(settings).load()
    except LockgateError:
        return None


def _row(line: "Line") -> dict[str, Any]:
    return {**asdict(line), "rules": sorted(line.rules), "covered": line.is_covered}


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        # A name that begins with = or + is a formula to some readers of such files.
        writer.writerows(
            {
                key: _harmless(" ".join(value) if isinstance(value, list) else value)
                for key, value in row.items()
            }
            for row in rows
        )
    return out.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _text(line: "Line") -> str:
    counts = [
        f"{count} {word}"
        for count, word in (
            (line.allowed, "allowed"),
            (line.would_deny, "only observed"),
            (line.denied, "refused"),
        )
        if count
    ]
    by = f" by {', '.join(sorted(line.rules))}" if line.rules else ""
    where = f"{line.agent} -> {line.service} ({line.segment or 'no segment'})"
    last = f"last {clock_time(Wall(line.last))}"
    return f"{printable(where)}  {printable(line.operation)}: {', '.join(counts)}{printable(by)}; {last}"
