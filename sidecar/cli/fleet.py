"""`lockgate status --fleet`: node by node, whether what counts now is in force there."""

from collections import defaultdict
from typing import Any

from sidecar.cli.settings import Settings
from sidecar.cli.values import clock_time
from sidecar.control.client import call
from sidecar.exits import Exit


def report_fleet(settings: Settings) -> int:
    """Exit code 3 when a node of the roster has not confirmed all of it; it does so by itself once it is back."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/fleet")
    lacking = _lacking(answer["statements"])
    settings.emit(answer, "\n".join(_lines(answer, lacking)))
    return Exit.UNCONFIRMED if any(lacking.values()) else Exit.YES


def _lacking(statements: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By node, a line for each statement that it has not confirmed."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for one in statements:
        for node, standing in one["nodes"].items():
            missing = lacking[node]  # A row for those, too, that lack nothing.
            if standing["state"] == "unconfirmed":
                missing.append(_line(one, standing))
    return lacking


def _lines(answer: dict[str, Any], lacking: dict[str, list[str]]) -> list[str]:
    count = len(answer["statements"])
    lines = [
        f"{count} statements count now" + (f", and {answer['left_out']} older" if answer["left_out"] else "")
    ]
    for node, missing in sorted(lacking.items()):
        lines += [f"{node}: {len(missing)} unconfirmed" if missing else f"{node}: all confirmed", *missing]
    return lines


def _line(one: dict[str, Any], standing: dict[str, Any]) -> str:
    limits = ", ".join(f"{segment} by {clock_time(at)}" for segment, at in standing["refuses_by"].items())
    what = " ".join(filter(None, (one["kind"], one["target"], f"({one['id']})")))
    return f"  {what}" + (f"; refuses by itself {limits}" if limits and one["counted"] else "")
