"""`lockgate session start | exec | ls | show | end`."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from pki.errors import LocalError, LockgateError, RefusedError
from pki.ids import ID_BYTES, new_id
from sidecar.cli.child import child, why
from sidecar.cli.client_certificate import client_certificate, write_client_certificates
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import ID, clock_time, printable
from sidecar.control.client import Held, call
from sidecar.exits import Exit

agent_option = click.option("--agent", required=True, help="The agent of the policy that this is a run of.")

MAX_ID_TOKEN_BYTES = 16_384

id_token_option = click.option(
    "--id-token-file",
    "id_token",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="LOCKGATE_ID_TOKEN_FILE",
    help="The OpenID Connect ID token of the user whom it runs for; it works once.",
)


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
@click.option(
    "--export",
    "export",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Stay, and keep its certificate, key and trust bundle in DIR until told to stop.",
)
@id_token_option
@settings_options
def start(
    settings: Settings, agent: str, folder: Path | None, export: Path | None, id_token: Path | None
) -> int:
    """Start a session: processes of the agent's uid may use its bindings from now on."""
    wanted = {"agent": agent, **_on_behalf(id_token)}
    if export is not None:
        return _start_exported(settings, wanted, export)
    answer = call(settings.paths.agent_sock, "POST", "/v1/sessions", wanted)
    if folder is not None:
        try:
            answer |= write_client_certificates(settings, answer["session"], answer["uid"], folder)
        except (LockgateError, OSError):
            call(settings.paths.agent_sock, "DELETE", f"/v1/sessions/{answer['session']}")
            raise
    settings.emit(answer, how_to_use(answer))
    return Exit.YES


# Options end where the command begins: `session exec --agent a curl --json {}` is curl's --json.
@session.command(name="exec", context_settings={"allow_interspersed_args": False})
@agent_option
@id_token_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@settings_options
def execute(settings: Settings, agent: str, id_token: Path | None, command: tuple[str, ...]) -> int:
    """Run COMMAND as a session of its own, which ends with it; its exit code is passed on."""
    from sidecar.session.execute import run_command

    sock = settings.paths.agent_sock
    try:
        wanted = {"agent": agent, "hold": True, **_on_behalf(id_token), **_own_cgroup()}
        held = Held(sock, "/v1/sessions", wanted)
    except LockgateError as error:
        click.echo(f"lockgate: {error}", err=True)
        return Exit.EXEC_FAILED
    try:
        return run_command(list(command), environment(held.first, sock), held.first["uid"])
    finally:
        _finish(sock, held)


@session.command(name="ls")
@settings_options
def list_sessions(settings: Settings) -> int:
    """Your own sessions on this node; all of them for root."""
    answer = call(settings.paths.agent_sock, "GET", "/v1/sessions")
    settings.emit(answer, table(answer["sessions"]) or "no sessions of yours")
    return Exit.YES


@session.command()
@click.argument("session_id", metavar="ID", type=ID)
@settings_options
def show(settings: Settings, session_id: str) -> int:
    """One session of yours on this node: who it is, and how to use it."""
    answer = call(settings.paths.agent_sock, "GET", f"/v1/sessions/{session_id}")
    settings.emit(answer, f"{how_to_use(answer)}\n{_details(answer)}")
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


def how_to_use(started: dict[str, Any]) -> str:
    """The id alone on the first line, for scripts; then each service, and where it is reached."""
    services = started["services"]
    width = max(map(len, services), default=0)
    lines = [f"  {service:<{width}}  {address}" for service, address in services.items()]
    return "\n".join([started["session"], *lines])


def table(sessions: list[dict[str, Any]]) -> str:
    """A line for each, the columns aligned."""
    rows = [
        (
            one["session"],
            one["agent"],
            f"uid {one['uid']}",
            f"known by {one['attribution']}",
            f"until {clock_time(one['not_after'])}",
            "exported" if one.get("exported") else "",
            f"child of {one['parents'][-1]}" if one.get("parents") else "",
            f"for {printable(one['on_behalf_of'])}" if one.get("on_behalf_of") else "",
        )
        for one in sessions
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _details(one: dict[str, Any]) -> str:
    lines = {
        "agent": f"{one['agent']}, as uid {one['uid']}",
        "SPIFFE ID": one["id"],
        "known by": one["attribution"],
        "started": clock_time(one["started"]),
        "certificate": f"until {clock_time(one['not_after'])}, renewed before",
        "on behalf of": printable(one.get("on_behalf_of", "")) or "nobody",
        "key": "exported" if one.get("exported") else "in the daemon only",
    }
    return "\n".join(f"{name + ':':<13}{value}" for name, value in lines.items())


def _on_behalf(file: Path | None) -> dict[str, str]:
    """What a request for a session says of its user; raises LocalError for a file that holds no token."""
    if file is None:
        return {}
    try:
        with file.open("rb") as opened:
            token = opened.read(MAX_ID_TOKEN_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not 0 < len(token) <= MAX_ID_TOKEN_BYTES:
        raise LocalError(f"{file}: holds no ID token")
    return {"id_token": token}


def _start_exported(settings: Settings, wanted: dict[str, str], folder: Path) -> int:
    from sidecar.cli.export import Export

    held = Held(settings.paths.agent_sock, "/v1/sessions", {**wanted, "hold": True, "export": True})
    export = Export(held, folder)
    started = export.started

    def ready() -> None:
        settings.emit({**started, "exported_to": str(folder)}, f"{how_to_use(started)}\n  files in {folder}")
        sys.stdout.flush()

    export.run(ready)
    return Exit.YES


def _own_cgroup() -> dict[str, Any]:
    """What keeps this command apart: a cgroup that root makes and enters here, else one that the daemon may make."""
    from sidecar.session.cgroup import enter_new

    name = new_id(os.urandom(ID_BYTES))
    return {"made": name} if os.geteuid() == 0 and enter_new(name) else {"own_cgroup": True}


def _finish(sock: Path, held: Held) -> None:
    """The command is over, and its session with it, unless others of the session still run."""
    try:
        ended = call(sock, "DELETE", f"/v1/sessions/{held.first['session']}?when=alone")
        if not ended.get("ended", True):
            click.echo(
                "lockgate: processes of this session still run; it ends with the last of them", err=True
            )
    except RefusedError:
        pass  # It has ended already: revoked, or at its limit.
    except LockgateError as error:
        click.echo(f"lockgate: the session could not be ended: {error}", err=True)
    finally:
        held.close()


def environment(started: dict[str, Any], sock: Path) -> dict[str, str]:
    """What a session's command finds in its environment."""
    services = {
        f"LOCKGATE_{service.upper().replace('-', '_')}_ADDR": address
        for service, address in started["services"].items()
    }
    own = {
        "LOCKGATE_SESSION": started["session"],
        "LOCKGATE_AGENT_SOCK": str(sock.absolute()),
        "TRACEPARENT": started["traceparent"],
    }
    # Not ours: where an operator's passphrase lies is none of an agent's business.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOCKGATE_")}
    return {**inherited, **services, **own}
