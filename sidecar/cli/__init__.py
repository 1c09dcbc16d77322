"""The lockgate command. Each verb lives in a module of its own, which is loaded only when it is called."""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from pki.errors import LockgateError, UnreachableError
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit

SCHEMA_VERSION = 1

VERBS = {
    "audit": "sidecar.cli.audit:audit",
    "ca": "sidecar.cli.ca:ca",
    "dev": "sidecar.cli.dev:dev",
    "join": "sidecar.cli.join:join",
    "lock": "sidecar.cli.stops:lock",
    "policy": "sidecar.cli.policy:policy",
    "reload": "sidecar.cli.node:reload",
    "revoke": "sidecar.cli.stops:revoke",
    "run": "sidecar.cli.node:run",
    "session": "sidecar.cli.session:session",
    "status": "sidecar.cli.node:status",
    "stream": "sidecar.cli.stream:stream",
    "token": "sidecar.cli.ca:token",
    "unlock": "sidecar.cli.stops:unlock",
}


class Verbs(click.Group):
    """The verbs by name; their modules are imported on use, so that `lockgate status` starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from sidecar.version import VERSION

        click.echo(f"lockgate {VERSION}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version)
@settings_options
def lockgate(settings: Settings) -> None:
    """Private tools for AI agents: identity-bound, segment by segment, cut off when revoked."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. An expected failure is one line on stderr, never a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = lockgate.main(args=words, prog_name="lockgate", standalone_mode=False)
        code = result if isinstance(result, int) else Exit.YES
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.ClickException as error:
        code = Exit.USAGE
        _complain(words, error.format_message(), code, usage=error)
    except (KeyboardInterrupt, click.Abort):
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        code = Exit.YES  # The reader has seen enough.
        sys.stderr.close()
    except LockgateError as error:
        code = exit_code(error)
        _complain(words, str(error), code)
    sys.exit(code)


def exit_code(error: LockgateError) -> Exit:
    """What a failure exits with; a daemon turns its own ConfigError into 78 itself."""
    return Exit.UNCONFIRMED if isinstance(error, UnreachableError) else Exit.NO


def _complain(words: list[str], message: str, code: int, *, usage: click.ClickException | None = None) -> None:
    if "--json" in words:
        body: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "error": {"exit": code, "message": message}}
        click.echo(json.dumps(body))
        return
    for line in message.splitlines():
        click.echo(f"lockgate: {line}", err=True)
    context = getattr(usage, "ctx", None)
    if context is not None:
        click.echo(f"try: {context.command_path} --help", err=True)


