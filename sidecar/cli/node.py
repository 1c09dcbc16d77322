"""`lockgate run | status | reload`."""

from collections.abc import Callable
from typing import Any

import click

from pki.errors import ConfigError, LockgateError
from sidecar.cli.fleet import report_fleet
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import clock_time, printable
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
    """Let the daemon of this directory read its configuration again, as SIGHUP does; a bad file changes nothing."""
    answer = call(settings.paths.admin_sock, "POST", "/v1/reload")
    waiting = answer["needs_restart"]
    settings.emit(answer, "reloaded" + (f"; only a restart takes up {', '.join(waiting)}" if waiting else ""))
    return Exit.YES


@click.command()
@click.option("--fleet", is_flag=True, help="What counts now, and which node has confirmed it.")
@settings_options
def status(settings: Settings, fleet: bool) -> int:
    """Say how the daemon of this directory is: peers, freshness, locks, bindings. Exit code 1: it is not ready.

    --fleet: every stop, lift, policy and trust bundle that counts, node by node. Exit code 3: a node has not confirmed.
    """
    if fleet:
        return report_fleet(settings)
    answer = call(settings.paths.admin_sock, "GET", "/v1/status")
    settings.emit(answer, "\n".join(_lines(answer)))
    return Exit.YES if answer["ready"] else Exit.NO


def serve(daemon: Callable[[], None]) -> int:
    """Run a daemon to its end: bad configuration exits with 78, so that systemd does not try again."""
    try:
        daemon()
    except BaseExceptionGroup as group:
        error = _first(group)
    except LockgateError as single:
        error = single
    else:
        return Exit.YES
    if not isinstance(error, ConfigError):
        raise error
    for fault in error.faults:
        click.echo(f"lockgate: {fault}", err=True)
    return Exit.CONFIG


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first leaf of an exception group: errors in a nursery come wrapped."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _lines(answer: dict[str, Any]) -> list[str]:
    return [
        *_state(answer),
        *(_segment(name, segment) for name, segment in answer.get("segments", {}).items()),
        *_burning(answer.get("segments", {})),
        *map(_binding, answer.get("bindings", [])),
        *map(_lock, answer["locks"]),
        *(f"  REVOKED    {one['target']} by {one['by']} ({one['id']})" for one in answer["revocations"]),
        *_sessions(answer),
        *_traffic(answer),
        *_refused(answer.get("refused", {})),
    ]


def _state(answer: dict[str, Any]) -> list[str]:
    ready = "ready" if answer["ready"] else "NOT READY"
    dev = " (dev: loopback only, not for production)" if answer["dev"] else ""
    until = f" until {clock_time(answer['not_after'])}" if "not_after" in answer else ""
    policy = answer["policy"]
    lines = [
        f"{answer['role']} {answer['name']}: {ready}{dev}",
        f"  identity   {answer['id']}{until}",
        f"  roster     nodes {_listed(answer['nodes'])}; operators {_listed(answer['operators'])}",
        f"  linked to  {_listed(answer['peers'])}",
        f"  policy     sequence {policy['sequence']} {policy['digest'][:12]}"
        if policy["sequence"]
        else "  policy     none: everything is refused",
    ]
    if canary := answer.get("canary"):
        lines.append(f"  canary     sequence {canary['sequence']} on {_listed(canary['nodes'])}")
    if policy["fault"]:
        lines.append(f"  POLICY     {policy['fault']}; the old one stays")
    if answer["unready"]:
        lines.append(f"  UNREADY    {answer['unready']}")
    if answer.get("clock"):
        lines.append(f"  CLOCK      {answer['clock']}; until then the CA signs nothing")
    return lines


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _segment(name: str, segment: dict[str, Any]) -> str:
    state = f"fresh until {clock_time(segment['until'])}" if segment["fresh"] else "STALE, refuses"
    if segment["mode"] == "observe":
        # Loud for as long as it lasts: nobody should forget that this protects nothing.
        counts = ", ".join(f"{count} {reason}" for reason, count in segment["would_deny"].items())
        return f"  OBSERVED   {name}: NOT ENFORCED; it would have refused {counts or 'nothing yet'}"
    return f"  segment    {name}: {state}"


def _burning(segments: dict[str, Any]) -> list[str]:
    """Segments whose error budget is being used up fast: `lockgate slo` says more."""
    return [
        f"  SLO        {name}: FAST BURN, {one['slo']['burn']:.0f} times what its objective allows; see lockgate slo"
        for name, one in segments.items()
        if one["slo"] and one["slo"]["fast"]
    ]


@click.command()
@settings_options
def slo(settings: Settings) -> int:
    """How this node keeps to the objectives of its segments; exit code 1 while one burns fast.

    Measured is our part: from the arrival of a stream or request to the tool's connection, or its forwarding.
    """
    segments = call(settings.paths.admin_sock, "GET", "/v1/status")["segments"]
    found = {name: one["slo"] for name, one in segments.items() if one["slo"]}
    lines = [
        f"{name}: {one['objective']} % within {one['p99'] / 1000:g} ms; {one['missed']} of {one['total']} missed it today, "
        f"budget left {100 * one['budget']:.0f} %, burn rate {one['burn']:.1f}{' FAST' if one['fast'] else ''}"
        for name, one in found.items()
    ]
    settings.emit({"segments": found}, "\n".join(lines) or "no segment has an objective")
    return Exit.NO if any(one["fast"] for one in found.values()) else Exit.YES


def _binding(binding: dict[str, Any]) -> str:
    state = f"DOWN, {binding['problem']}" if binding["problem"] else "listens"
    return f"  binding    {binding['agent']} -> {binding['service']} on {binding['address']}: {state}"


def _lock(lock: dict[str, Any]) -> str:
    said = f": {printable(lock['message'])}" if lock["message"] else ""
    return f"  LOCK       {lock['target']} by {lock['by']} until {clock_time(lock['until'])} ({lock['id']}){said}"


def _sessions(answer: dict[str, Any]) -> list[str]:
    """What is wrong with them, on a node."""
    lines = [
        f"  USER       agent {name} can run no session: this machine does not have its user"
        for name in answer.get("missing_users", [])
    ]
    return lines + [
        f"  ORPHANS    session {name}: {count} processes that a killed daemon left; they reach nothing"
        for name, count in answer.get("orphans", {}).items()
    ]


def _traffic(answer: dict[str, Any]) -> list[str]:
    """Of a node only: the CA carries none."""
    if "streams" not in answer:
        return []
    audit = answer["audit"]
    written = "written" if audit["available"] else f"CANNOT BE WRITTEN: {audit['trouble']}"
    return [
        f"  streams    {answer['streams']} live, {answer['sessions']} sessions",
        f"  audit      {written}",
    ]


def _refused(counts: dict[str, int]) -> list[str]:
    """Peers that were turned away since the daemon started, by cause."""
    told = ", ".join(f"{printable(cause)} {count}" for cause, count in sorted(counts.items()))
    return [f"  refused    {told}"] if told else []
