"""Wait until a statement is in force on every node, and say where it is not."""

import time
from typing import Any

import click

from pki.errors import LockgateError
from sidecar.cli.settings import Settings
from sidecar.cli.values import DURATION, clock_time
from sidecar.control.client import call
from sidecar.exits import Exit

POLL_SECONDS = 0.03

wait_option = click.option(
    "--wait",
    type=DURATION,
    default="5s",
    show_default=True,
    help="How long to wait for every node's receipt; 0s: do not wait.",
)


def report(settings: Settings, answer: dict[str, Any], wait: int, done: str) -> int:
    """Say what was done, and where the statement ``answer["id"]`` is in force within ``wait`` (us).

    Exit code 3 when a node did not confirm it. What was done stays done when the daemon here cannot tell.
    """
    standing = _wait(settings, answer["id"], wait)
    nodes: dict[str, dict[str, Any]] = standing.get("nodes", {})
    lines = [_line(name, one, standing) for name, one in nodes.items()]
    if not standing:
        lines = [f"  not seen by the daemon of {settings.paths.run}; ask another: lockgate --dir DIR status"]
    settings.emit({**answer, "nodes": nodes}, "\n".join([done, *lines]))
    return Exit.YES if _is_confirmed(standing) else Exit.UNCONFIRMED


def _wait(settings: Settings, statement: str, wait: int) -> dict[str, Any]:
    deadline = time.monotonic() + wait / 1_000_000
    while True:
        standing = _standing(settings, statement)
        if _is_confirmed(standing) or time.monotonic() >= deadline:
            return standing
        time.sleep(POLL_SECONDS)  # noqa: TID251 - a command line has nothing else to do


def _standing(settings: Settings, statement: str) -> dict[str, Any]:
    """Empty while the daemon of this directory does not answer, or has not heard of the statement."""
    try:
        return call(settings.paths.admin_sock, "GET", f"/v1/statements/{statement}")
    except LockgateError:
        return {}


def _is_confirmed(standing: dict[str, Any]) -> bool:
    return bool(standing) and all(one["state"] == "confirmed" for one in standing["nodes"].values())


def _line(name: str, one: dict[str, Any], standing: dict[str, Any]) -> str:
    if one["state"] == "confirmed":
        delay = max(0, one["since"] - standing["issued"]) / 1000
        return f"  {name}: in force after {delay:.0f} ms, {one['cut']} streams cut"
    limits = ", ".join(f"{segment} by {clock_time(at)}" for segment, at in one["refuses_by"].items())
    if not limits:
        return f"  {name}: unconfirmed"
    # The CA may be up, out of our reach, and in that node's.
    unless = "" if standing["counted"] else ", unless it hears a CA that has not heard of this"
    return f"  {name}: unconfirmed; refuses by itself {limits}{unless}"
