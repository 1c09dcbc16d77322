"""Wait until a statement is in force on every node, and say where it is not."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pki.errors import LockgateError, UnreachableError
from sidecar import defaults
from sidecar.cli.node import clock_time
from sidecar.cli.settings import Settings
from sidecar.control.client import call
from sidecar.duration import parse_duration
from sidecar.exits import Exit

POLL_SECONDS = 0.03

F = TypeVar("F", bound=Callable[..., Any])


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    if value is None:
        return defaults.RECEIPT_WAIT
    try:
        return parse_duration(value)
    except (ValueError, LockgateError) as error:
        raise click.UsageError(f"--wait: {error}") from None


def wait_option(command: F) -> F:
    """Add --wait DURATION (``wait``, microseconds)."""
    what = "How long to wait for every node's receipt (default 5s; 0s: do not wait)."
    return click.option("--wait", metavar="DURATION", callback=_duration, help=what)(command)


def wait_for(settings: Settings, statement: str, wait: int) -> dict[str, Any]:
    """Where a statement stands, node by node, once all have confirmed it or ``wait`` (us) is over."""
    deadline = time.monotonic() + wait / 1_000_000
    while True:
        answer = _standing(settings, statement)
        if answer and all(one["state"] == "confirmed" for one in answer["nodes"].values()):
            return answer
        if time.monotonic() >= deadline:
            return answer
        time.sleep(POLL_SECONDS)  # noqa: TID251 - a command line has nothing else to do


def report(settings: Settings, answer: dict[str, Any], standing: dict[str, Any], done: str) -> int:
    """Print what was done and where it is in force; exit code 3 when a node did not confirm."""
    nodes: dict[str, dict[str, Any]] = standing.get("nodes", {})
    settings.emit({**answer, "nodes": nodes}, "\n".join([done, *_lines(nodes, standing.get("issued", 0))]))
    if not standing or any(one["state"] != "confirmed" for one in nodes.values()):
        return Exit.UNCONFIRMED
    return Exit.YES


def _standing(settings: Settings, statement: str) -> dict[str, Any]:
    """Empty while the daemon of this directory has not heard of the statement."""
    try:
        return call(settings.paths.admin_sock, "GET", f"/v1/statements/{statement}")
    except UnreachableError:
        raise
    except LockgateError:
        return {}


def _lines(nodes: dict[str, dict[str, Any]], issued: int) -> list[str]:
    lines = []
    for name, one in nodes.items():
        if one["state"] == "confirmed":
            delay = max(0, one["since"] - issued) / 1000
            lines.append(f"  {name}: in force after {delay:.0f} ms, {one['cut']} streams cut")
        else:
            limits = [f"{segment} by {clock_time(at)}" for segment, at in one["refuses_by"].items()]
            lines.append(f"  {name}: unconfirmed" + (f"; refuses by itself {', '.join(limits)}" if limits else ""))
    return lines or ["  no node has confirmed it"]
