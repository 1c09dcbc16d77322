"""`lockgate request create | ls | show | approve | deny`: more rights, for a while (docs/escalation.md)."""

from typing import TYPE_CHECKING, Any

import click

from pki.clock import SECOND
from sidecar.cli.operator import acting
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import DURATION, ID, NAME, clock_time, printable
from sidecar.control.client import call
from sidecar.duration import format_duration
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pathlib import Path

OPEN = ("requested", "approved")
STORY_LINES = 12

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
@settings_options
def request(settings: Settings) -> None:
    """Ask for more rights for a while, and answer those who ask."""


@request.command()
@click.option("--to", required=True, type=NAME, metavar="SEGMENT", help="The segment to work in.")
@click.option("--service", "services", multiple=True, required=True, type=NAME, help="Again for more.")
@click.option("--reason", default="", help="What for; shown to who approves.")
@click.option("--ttl", type=DURATION, default="15m", show_default=True, help="For how long.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="'METHOD NAME'",
    help="Nothing but these. Default: all.",
)
@click.option("--arguments", default="", metavar="SHA256", help="For one set of MCP arguments alone.")
@click.option("--session", "session_id", type=ID, help="Whose, if you are in no session with a cgroup.")
@settings_options
def create(settings: Settings, *, to: str, ttl: int, services: tuple[str, ...], **options: Any) -> int:
    """Ask for more, as the session that you run in. Answers with an id at once; poll it with `request show`."""
    wanted: dict[str, Any] = {
        "to": to,
        "services": list(services),
        "ttl": max(1, ttl // SECOND),
        "reason": options["reason"],
        "operations": list(options["operations"]) or None,
        "arguments": options["arguments"],
        "session": options["session_id"] or "",
    }
    made = call(settings.paths.agent_sock, "POST", "/v1/requests", wanted)
    lines = [f"asked for, as {made['id']}", *_what(made), f"next: lockgate request show {made['id']}"]
    settings.emit(made, "\n".join(lines))
    return Exit.YES


@request.command("ls")
@settings_options
def ls(settings: Settings) -> int:
    """The requests that are held: all of them for operators, else your session's."""
    found = call(_sock(settings), "GET", "/v1/requests")
    lines = [
        f"{one['id']}  {one['state']:<10} {one['agent']}: {', '.join(one['services'])} for {format_duration(one['ttl'])}"
        f"  {printable(one['reason'])}"
        for one in found["requests"]
    ]
    settings.emit(found, "\n".join(lines) or "none")
    return Exit.YES


@request.command()
@click.argument("request_id", metavar="ID", type=ID)
@settings_options
def show(settings: Settings, request_id: str) -> int:
    """One request: what is asked for, who agreed, how it stands."""
    found = call(_sock(settings), "GET", f"/v1/requests/{request_id}")
    settings.emit(found, "\n".join([*_what(found), *_standing(found)]))
    return Exit.YES


@request.command()
@click.argument("request_id", metavar="ID", type=ID)
@yes_option
@settings_options
def approve(settings: Settings, request_id: str, yes: bool) -> int:
    """Agree to exactly this request. Shows what it asks for, what is at stake, and what the session did so far."""
    return _answer(settings, request_id, "approval", "", yes=yes)


@request.command()
@click.argument("request_id", metavar="ID", type=ID)
@click.option("--message", default="", help="Shown to who asked.")
@yes_option
@settings_options
def deny(settings: Settings, request_id: str, message: str, yes: bool) -> int:
    """Refuse this request, for good. A lease that it has become ends at once."""
    return _answer(settings, request_id, "refusal", message, yes=yes)


def _answer(settings: Settings, request_id: str, kind: str, message: str, *, yes: bool) -> int:
    import base64

    from pki.asking import ANSWER_LIFE, Answer

    found = call(settings.paths.admin_sock, "GET", f"/v1/requests/{request_id}")
    with acting(settings) as operator:
        _require_open(found, kind, operator.credential.id.name)
        story = _story(settings.paths.audit_dir, found["session"])
        click.echo("\n".join([*_what(found), *_stakes(found), *_standing(found), *story]), err=True)
        if not yes and not click.confirm("approve" if kind == "approval" else "refuse", err=True):
            settings.emit({"id": request_id, "answered": False}, "not answered")
            return Exit.NO
        said = operator.sign(kind, Answer(request=found["digest"], message=message), ANSWER_LIFE)
        envelope = base64.b64encode(said.raw).decode()
        call(settings.paths.admin_sock, "POST", "/v1/statements", {"envelope": envelope})
    after = call(settings.paths.admin_sock, "GET", f"/v1/requests/{request_id}")
    settings.emit(after, "\n".join(_standing(after)))
    is_counted = kind == "refusal" or operator.credential.id.name in after["approvals"]
    if not is_counted:
        settings.say(
            "your approval does not count: you are none of its approvers, or who started the session"
        )
    return Exit.YES if is_counted else Exit.NO


def _require_open(found: dict[str, Any], kind: str, name: str) -> None:
    from pki.errors import RefusedError

    number = found["id"]
    if kind == "approval" and name in found["approvals"]:
        raise RefusedError(f"request {number}: operator {name} has approved it already")
    if found["state"] not in OPEN and not (kind == "refusal" and found["until"]):
        raise RefusedError(f"request {number}: it is {found['state']} already{_because(found)}")


def _what(found: dict[str, Any]) -> list[str]:
    whose = f" for {found['on_behalf_of']}" if found["on_behalf_of"] else ""
    lines = [
        f"agent {found['agent']} on {found['node']}, session {found['session']}{whose}",
        f"asks for {', '.join(found['services'])} by {found['rule']}, for {format_duration(found['ttl'])}",
    ]
    lines += [f"only {printable(one)}" for one in found["operations"] or ()]
    lines += [f"only with the arguments of SHA-256 {found['arguments']}"] if found["arguments"] else []
    return [*lines, f"reason: {printable(found['reason']) or 'none given'}"]


def _stakes(found: dict[str, Any]) -> list[str]:
    return [
        f"at stake in {one['service']}: {', '.join(one['labels']) or 'nothing labelled'}; risk {one['risk'] or 'not set'}"
        for one in found["blast"]
    ]


def _standing(found: dict[str, Any]) -> list[str]:
    agreed = ", ".join(found["approvals"]) or "nobody"
    until = f" until {clock_time(found['until'])}" if found["until"] else ""
    waits = f"; waits until {clock_time(found['decide_by'])}" if found["state"] in OPEN else ""
    return [
        f"{found['state']}{until}{_because(found)}; approved by {agreed} ({found['needed']} needed){waits}"
    ]


def _because(found: dict[str, Any]) -> str:
    return f" ({printable(found['why'])})" if found["why"] else ""


def _story(folder: "Path", session: str) -> list[str]:
    """What this node's log says of the session so far; nothing where it is not here, or not for us to read."""
    from pki.errors import LockgateError
    from sidecar.audit.search import story
    from sidecar.audit.trace import trace_of
    from sidecar.cli.audit_trace import lines_of

    try:
        lines = [printable(line) for line in lines_of(trace_of(story([folder], session)))]
    except (LockgateError, OSError):
        return ["what the session did so far is on record elsewhere: lockgate audit trace " + session]
    return ["so far:", *lines[-STORY_LINES:]] if lines else ["so far: nothing on record here"]


def _sock(settings: Settings) -> "Path":
    """The admin socket for whoever may use it, else the agents'."""
    import os

    admin = settings.paths.admin_sock
    return admin if os.access(admin, os.R_OK | os.W_OK) else settings.paths.agent_sock
