"""lockgate run | status | reload"""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from pki.errors import ConfigError, LockgateError
from sidecar.cli.settings import Settings, settings_options
from sidecar.control.client import call
from sidecar.exits import Exit


@click.command()
@settings_options
def run(settings: Settings) -> int:
    """Run this node's daemon in the foreground."""
    import trio

    from sidecar import daemon

    return serve(lambda: trio.run(daemon.run, settings.paths))


@click.command()
@settings_options
def reload(settings: Settings) -> int:
    """Let the daemon of this directory read its configuration again (SIGHUP)."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    os.kill(int(answer["pid"]), signal.SIGHUP)
    settings.emit({"pid": answer["pid"]}, f"told daemon {answer['pid']} to reload; its log says whether it did")
    return Exit.YES


@click.command()
@settings_options
def status(settings: Settings) -> int:
    """Say how the daemon of this directory is: peers, freshness, locks, bindings."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    settings.emit(answer, "\n".join(_lines(answer)))
    return Exit.YES if answer["ready"] else Exit.NO


def serve(daemon: Callable[[], None]) -> int:
    """Run a daemon to its end: bad configuration exits with 78, so that systemd does not try again."""
    try:
        daemon()
    except BaseExceptionGroup as group:
        error = first(group)
    except LockgateError as single:
        error = single
    else:
        return Exit.YES
    if not isinstance(error, ConfigError):
        raise error
    for fault in error.faults:
        click.echo(f"lockgate: {fault}", err=True)
    return Exit.CONFIG


def first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first leaf of an exception group: errors in a nursery come wrapped."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def clock_time(at: int | None) -> str:
    """Wall time in microseconds as people write it."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _lines(answer: dict[str, Any]) -> list[str]:
    lines = [
        f"{answer['role']} {answer['name']}: {'ready' if answer['ready'] else 'NOT READY'}"
        + (" (dev: loopback only, not for production)" if answer.get("dev") else ""),
        f"  identity   {answer['id']} until {clock_time(answer.get('not_after'))}",
        f"  peers      {', '.join(answer['peers']) or 'none'}",
        f"  policy     sequence {answer['policy']['sequence']} {answer['policy']['digest'][:12]}",
    ]
    if answer["policy"].get("fault"):
        lines.append(f"  POLICY     {answer['policy']['fault']}; the old one stays")
    if answer["unready"]:
        lines.append(f"  UNREADY    {answer['unready']}")
    for name, segment in answer.get("segments", {}).items():
        state = f"fresh until {clock_time(segment['until'])}" if segment["fresh"] else "STALE, refuses"
        lines.append(f"  segment    {name}: {state}")
    for binding in answer.get("bindings", []):
        state = f"DOWN, {binding['problem']}" if binding["problem"] else "listens"
        lines.append(f"  binding    {binding['agent']} -> {binding['service']} on port {binding['port']}: {state}")
    for lock in answer["locks"]:
        said = f": {lock['message']}" if lock["message"] else ""
        lines.append(
            f"  LOCK       {lock['target']} by {lock['by']} until {clock_time(lock['until'])} ({lock['id']}){said}"
        )
    lines += [f"  REVOKED    {one['target']} by {one['by']} ({one['id']})" for one in answer["revocations"]]
    if "streams" in answer:
        lines.append(f"  streams    {answer['streams']} live, {answer['sessions']} sessions")
    audit = answer.get("audit")
    if audit:
        lines.append(f"  audit      {'written' if audit['available'] else 'CANNOT BE WRITTEN: ' + audit['trouble']}")
    return lines
