"""What a stop would do, by the word of the daemon here: `lock --dry-run`, `revoke --dry-run`."""

from typing import Any

from sidecar.cli.settings import Settings
from sidecar.control.client import call
from sidecar.exits import Exit

MAX_ROWS = 40
"""On a terminal; --json has all."""


def would_stop(settings: Settings, kind: str, target: tuple[str, str]) -> int:
    """Ask and say it. Nothing is signed, so it takes no operator."""
    wanted = {"kind": kind, "target": {"kind": target[0], "value": target[1]}}
    answer = call(settings.paths.admin_sock, "POST", "/v1/dry-run", wanted)
    settings.emit({**answer, "dry_run": True}, "\n".join(_lines(answer, ":".join(filter(None, target)))))
    return Exit.YES


def _lines(answer: dict[str, Any], target: str) -> list[str]:
    streams, paths = answer["streams"], answer["paths"]
    named = ", ".join(f"{service} {count}" for service, count in sorted(streams.items()))
    lines = [
        f"nothing was stopped; a stop of {target} would cut, on this node now:",
        f"  {sum(streams.values())} live streams of {answer['sessions']} sessions"
        + (f": {named}" if named else ""),
        f"and close, by the policy, {len(paths)} ways from an agent to a service:",
    ]
    lines += [f"  {one['agent']} -> {one['service']} ({one['segment']})" for one in paths[:MAX_ROWS]]
    return lines + ([f"  and {len(paths) - MAX_ROWS} more; --json has all"] if len(paths) > MAX_ROWS else [])
