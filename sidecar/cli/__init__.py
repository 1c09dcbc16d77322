"""The lockgate command. Each verb lives in a module of its own, which is loaded only when it is called."""

import importlib
import json
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import click

from pki.errors import ConfigError, LocalError, LockgateError, UnreachableError
from sidecar.cli.settings import Settings, settings_options
from sidecar.control import SCHEMA_VERSION
from sidecar.exits import Exit

VERBS = {
    "audit": "sidecar.cli.audit:audit",
    "blast-radius": "sidecar.cli.blast:blast_radius",
    "ca": "sidecar.cli.ca:ca",
    "check": "sidecar.cli.check:check",
    "dev": "sidecar.cli.dev:dev",
    "inventory": "sidecar.cli.inventory:inventory",
    "join": "sidecar.cli.join:join",
    "lock": "sidecar.cli.stops:lock",
    "operator": "sidecar.cli.operator:operator",
    "policy": "sidecar.cli.policy:policy",
    "reload": "sidecar.cli.node:reload",
    "request": "sidecar.cli.request:request",
    "revoke": "sidecar.cli.stops:revoke",
    "run": "sidecar.cli.node:run",
    "session": "sidecar.cli.session:session",
    "statements": "sidecar.cli.statements:statements",
    "slo": "sidecar.cli.node:slo",
    "status": "sidecar.cli.node:status",
    "stream": "sidecar.cli.stream:stream",
    "token": "sidecar.cli.ca:token",
    "unlock": "sidecar.cli.stops:unlock",
    "unrevoke": "sidecar.cli.stops:unrevoke",
}


class Verbs(click.Group):
    """The verbs by name; their modules are imported on use, so that `lockgate status` starts fast."""

    def list_commands(self, _: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name = VERBS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
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
    # What stands after -- is another program's.
    as_json = "--json" in takewhile(lambda word: word != "--", words)
    sys.exit(_run(words, as_json=as_json))


def exit_code(error: LockgateError) -> Exit:
    """What a failure exits with; a daemon turns its own ConfigError into 78 itself."""
    return Exit.UNCONFIRMED if isinstance(error, UnreachableError) else Exit.NO


def _run(words: list[str], *, as_json: bool) -> int:
    try:
        result = lockgate.main(args=words, prog_name="lockgate", standalone_mode=False)
        return result if isinstance(result, int) else Exit.YES
    except click.ClickException as error:
        return _misused(error, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        return _failed(LocalError("interrupted"), Exit.INTERRUPTED, as_json=as_json)
    except LockgateError as error:
        return _failed(error, exit_code(error), as_json=as_json)
    except SystemExit:
        return Exit.YES  # click's word for a broken pipe: who reads our output has seen enough
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _failed(LocalError(what), Exit.NO, as_json=as_json)


def _misused(error: click.ClickException, *, as_json: bool) -> Exit:
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "lockgate"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        if not as_json:
            click.echo(error.format_message(), err=True)
            return Exit.USAGE
        error = click.UsageError(f"{command}: a command is missing")
    _failed(LocalError(error.format_message()), Exit.USAGE, as_json=as_json)
    if not as_json:
        click.echo(f"try: {command} --help", err=True)
    return Exit.USAGE


def _failed(error: LockgateError, code: Exit, *, as_json: bool) -> Exit:
    """Say it: a JSON object on stdout, or lines on stderr."""
    if not as_json:
        for line in str(error).splitlines():
            click.echo(f"lockgate: {line}", err=True)
        return code
    problem: dict[str, Any] = {"exit": code, "message": str(error)}
    if isinstance(error, ConfigError):
        problem["faults"] = [{"where": one.where, "what": one.what, "hint": one.hint} for one in error.faults]
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, "error": problem}))
    return code
