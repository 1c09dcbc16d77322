"""`lockgate session child | why`: what an agent's own processes ask of their session."""

from typing import Any

import click

from pki.errors import LockgateError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import DURATION, ID, NAME, clock_time, printable
from sidecar.control.client import call
from sidecar.exits import Exit

SECOND = 1_000_000


# Options end where the command begins, as in `session exec`.
@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--service", "services", multiple=True, type=NAME, help="What is left; again for more. Default: all."
)
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="'METHOD NAME'",
    help="What is left of each service: 'GET /api/**', 'tools/call get_*'; again for more. Default: all.",
)
@click.option("--life", type=DURATION, help="The child ends after this, or with its session. Default: 1h.")
@click.option("--session", "session_id", type=ID, help="Whose child, if you are in no session with a cgroup.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@settings_options
def child(settings: Settings, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND as a child of your session, with fewer rights; its exit code is passed on."""
    from sidecar.cli.session import environment
    from sidecar.session.execute import run_command

    wanted = {
        "services": list(options["services"]) or None,
        "operations": list(options["operations"]) or None,
        "session": options["session_id"],
        "life": options["life"] and max(1, options["life"] // SECOND),
    }
    said = {name: value for name, value in wanted.items() if value is not None}
    sock = settings.paths.agent_sock
    try:
        started = call(sock, "POST", "/v1/children", said)
    except LockgateError as error:
        click.echo(f"lockgate: {error}", err=True)
        return Exit.EXEC_FAILED
    # We are the child from here on. It ends when its last process does, and needs nobody to say so.
    return run_command(list(command), environment(started, sock), started["uid"])


@click.command()
@click.argument("session_id", metavar="[ID]", type=ID, required=False)
@settings_options
def why(settings: Settings, session_id: str | None) -> int:
    """The newest refusals of your own sessions, and what would help. A refused TCP client sees only a reset."""
    path = "/v1/refusals" if session_id is None else f"/v1/refusals/{session_id}"
    answer = call(settings.paths.agent_sock, "GET", path)
    lines = [_explained(one) for one in answer["refusals"]]
    settings.emit(answer, "\n".join(lines) or "nothing was refused")
    return Exit.YES


def _explained(one: dict[str, Any]) -> str:
    rule = f" by {one['rule']}" if one["rule"] else ""
    said = printable(
        f"{one['service'] or 'a stream'}: {one['reason']}{rule}: {one['hint']}".removesuffix(": ")
    )
    return f"{clock_time(one['at'])}  {said}\n    {one['remedy']}"
