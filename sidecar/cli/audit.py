"""lockgate audit tail | verify"""

import json
import time
from pathlib import Path
from typing import Any

import click

from pki.errors import LocalError
from sidecar.cli.node import clock_time
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit

POLL_SECONDS = 0.2


@click.group()
@settings_options
def audit(settings: Settings) -> None:
    """The audit log of this node."""


@audit.command()
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(0), help="How many records.")
@click.option("-f", "follow", is_flag=True, help="Go on with new records.")
@settings_options
def tail(settings: Settings, count: int, follow: bool) -> int:
    """The newest records; with --json as they stand in the log (JSON Lines)."""
    from sidecar.audit.tail import Tail
    from sidecar.audit.tail import follow as follow_on

    reader = Tail(settings.paths.audit_dir)
    try:
        for line in reader.last(count):
            _print(settings, line)
        if follow:
            for line in follow_on(reader, lambda: time.sleep(POLL_SECONDS)):  # noqa: TID251 - nothing else to do
                _print(settings, line)
    except OSError as error:
        raise LocalError(f"{settings.paths.audit_dir}: {error.strerror}") from None
    return Exit.YES


@audit.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@settings_options
def verify(settings: Settings, folder: Path | None) -> int:
    """Check the hash chain of this node's log, or of a copied FOLDER: the first bad record, or how far it holds."""
    from sidecar.audit.verify import verify_folder

    report = verify_folder(folder or settings.paths.audit_dir)
    bad = report.first_bad
    body: dict[str, Any] = {
        "records": report.records,
        "volumes": report.volumes,
        "first_bad": {"volume": bad.volume, "line": bad.line, "what": bad.what} if bad else None,
        "torn": report.torn,
        "gaps": report.gaps,
        "provable": report.provable,
    }
    lines = [f"{report.records} records in {report.volumes} volumes"]
    if bad:
        lines.append(f"FIRST BAD RECORD: {bad.volume} line {bad.line}: {bad.what}")
    lines += [*(f"gap: {gap}" for gap in report.gaps), report.provable]
    settings.emit(body, "\n".join(lines))
    return Exit.NO if bad else Exit.YES


def _print(settings: Settings, line: bytes) -> None:
    text = line.decode(errors="replace")
    if settings.as_json:
        click.echo(text)
        return
    try:
        record = json.loads(text)
    except ValueError:
        click.echo(text)
        return
    click.echo(_words(record))


def _words(record: dict[str, Any]) -> str:
    """One record for people: when, what, who, to what, why."""
    kind = str(record.get("kind", "?"))
    parts = [clock_time(record.get("at")), f"{kind:<10}"]
    if "service" in record:
        parts.append(f"{record.get('agent', '?')} -> {record['service']}")
    for key in ("what", "reason", "rule", "uid", "target", "peer", "hint", "bytes_in", "bytes_out", "stream"):
        if key in record:
            parts.append(f"{key}={record[key]}")
    return "  ".join(parts)
