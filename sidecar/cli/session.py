"""`lockgate session start | exec | ls | end`."""

import os
from pathlib import Path
from typing import Any

import click

from pki.errors import LockgateError
from sidecar.cli.child import child, why
from sidecar.cli.client_certificate import client_certificate, write_client_certificates
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import ID, clock_time
from sidecar.control.client import call
from sidecar.exits import Exit

agent_option = click.option("--agent", required=True, help="The agent of the policy that this is a run of.")


@click.group()
@settings_options
def session(settings: Settings) -> None:
    """Runs of agents on this node."""


session.add_command(child)
session.add_command(why)


@session.command()
@agent_option
@click.option(
    "--client-certificate",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write certificates for its mtls bindings into DIR.",
)
@settings_options
def start(settings: Settings, agent: str, folder: Path | None) -> int:
    """Start a session: processes of the agent's uid may use its bindings from now on."""
    answer = call(settings.paths.agent_sock, "POST", "/v1/sessions", {"agent": agent})
    if folder is not None:
        try:
            answer |= write_client_certificates(settings, answer["session"], answer["uid"], folder)
        except (LockgateError, OSError):
            call(settings.paths.agent_sock, "DELETE", f"/v1/sessions/{answer['session']}")
            raise
    lines = [f"  {service} {address}" for service, address in answer["services"].items()]
    settings.emit(answer, "\n".join([answer["session"], *lines]))
    return Exit.YES


# Options end where the command begins: `session exec --agent a curl --json {}` is curl's --json.
@session.command(name="exec", context_settings={"allow_interspersed_args": False})
@agent_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@settings_options
def execute(settings: Settings, agent: str, command: tuple[str, ...]) -> int:
    """Run COMMAND as a session of its own, which ends with it; its exit code is passed on."""
    from sidecar.session.execute import run_command

    sock = settings.paths.agent_sock
    try:
        started = call(sock, "POST", "/v1/sessions", {"agent": agent, "own_cgroup": True})
    except LockgateError as error:
        click.echo(f"lockgate: {error}", err=True)
        return Exit.EXEC_FAILED
    try:
        return run_command(list(command), environment(started), started["uid"])
    finally:
        try:
            call(sock, "DELETE", f"/v1/sessions/{started['session']}")
        except LockgateError as error:
            click.echo(f"lockgate: the session could not be ended: {error}", err=True)


@session.command(name="ls")
@settings_options
def list_sessions(settings: Settings) -> int:
    """Your own sessions on this node; all of them for root."""
    answer = call(settings.paths.agent_sock, "GET", "/v1/sessions")
    lines = [
        f"{one['session']}  {one['agent']}  uid {one['uid']}  known by {one['attribution']}"
        f"  until {clock_time(one['not_after'])}"
        for one in answer["sessions"]
    ]
    settings.emit(answer, "\n".join(lines) or "no sessions of yours")
    return Exit.YES


@session.command()
@click.argument("session_id", metavar="ID", type=ID)
@settings_options
def end(settings: Settings, session_id: str) -> int:
    """End a session here and, by revocation, everywhere."""
    answer = call(settings.paths.agent_sock, "DELETE", f"/v1/sessions/{session_id}")
    settings.emit(answer, f"ended {session_id}")
    return Exit.YES


session.add_command(client_certificate)


def environment(started: dict[str, Any]) -> dict[str, str]:
    """What a session's command finds in its environment."""
    services = {
        f"LOCKGATE_{service.upper().replace('-', '_')}_ADDR": address
        for service, address in started["services"].items()
    }
    own = {"LOCKGATE_SESSION": started["session"], "TRACEPARENT": started["traceparent"]}
    # Not ours: where an operator's passphrase lies is none of an agent's business.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOCKGATE_")}
    return {**inherited, **services, **own}
