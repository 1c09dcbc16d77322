"""`lockgate audit tail | verify | trace`."""

import json
import time
from typing import Any

import click

from pki.errors import LocalError
from sidecar.cli.audit_export import export
from sidecar.cli.audit_ship import ship
from sidecar.cli.audit_trace import trace
from sidecar.cli.audit_verify import verify
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import clock_time, printable
from sidecar.exits import Exit

POLL_SECONDS = 0.2

LEADING = ("what", "reason")
"""Fields whose value says it all."""
NAMED = (
    "rule", "uid", "target", "by", "peer", "session", "sequence", "bytes_in", "bytes_out", "count", "version", "why",
    "hint", "stream", "statement",
)  # fmt: skip
"""Fields that people look for, in this order. All the others are in --json."""


@click.group()
@settings_options
def audit(settings: Settings) -> None:
    """The audit log of this node."""


audit.add_command(trace)
audit.add_command(verify)
audit.add_command(export)
audit.add_command(ship)


@audit.command()
@click.option("-n", "count", default=20, show_default=True, type=click.IntRange(0), help="How many records.")
@click.option("-f", "follow", is_flag=True, help="Go on with new records, until Ctrl-C.")
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
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalError(f"{settings.paths.audit_dir}: {error.strerror}") from None
    return Exit.YES


def words(record: dict[str, Any]) -> str:
    """One record for people: when, what, who, to what, why."""
    parts = [clock_time(record.get("at")), f"{record.get('kind', '?'):<10}"]
    if "service" in record:
        parts.append(f"{record.get('agent', '?')} -> {record['service']}")
    elif "agent" in record:
        parts.append(str(record["agent"]))
    parts += [str(record[key]) for key in LEADING if key in record]
    parts += [f"{key}={record[key]}" for key in NAMED if record.get(key) not in (None, "")]
    return printable("  ".join(parts))


def _print(settings: Settings, line: bytes) -> None:
    text = line.decode(errors="replace")
    if not settings.as_json:
        try:
            text = words(json.loads(text))
        except (ValueError, TypeError, AttributeError):
            text = printable(text)  # `audit verify` says what is wrong with it
    click.echo(text)
