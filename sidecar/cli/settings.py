"""The options that every verb has, accepted before or after it: --dir, --operator, --json."""

import contextlib
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from pki.errors import LocalError
from sidecar.control import SCHEMA_VERSION
from sidecar.paths import Paths

F = TypeVar("F", bound=Callable[..., Any])

OPERATOR_VARIABLE = "LOCKGATE_OPERATOR"


@dataclass(frozen=True)
class Settings:
    """What the global options say."""

    directory: str | None = None
    operator: str | None = None
    as_json: bool = False

    @property
    def paths(self) -> Paths:
        return Paths.of(self.directory, os.environ)

    def emit(self, body: dict[str, Any], text: str) -> None:
        """Print a result: one JSON object, or words for people."""
        if self.as_json:
            click.echo(json.dumps({**body, "schema_version": SCHEMA_VERSION}))
        elif text:
            click.echo(text)

    def say(self, text: str) -> None:
        """Progress for people, on stderr."""
        if not self.as_json:
            click.echo(text, err=True)

    @property
    def operator_folder(self) -> Path:
        """Where the operator's credential is: --operator, LOCKGATE_OPERATOR, this directory's own, the only one."""
        named = self.operator or os.environ.get(OPERATOR_VARIABLE) or self._configured_operator()
        if named and os.sep in named:
            return Path(named)
        home = operator_home()
        found = sorted(path for path in home.glob("*/*") if named in (None, path.name))
        if len(found) == 1:
            return found[0]
        if named and Path(named).is_dir():
            return Path(named)
        whose = f"operator {named}: " if named else ""
        if found:
            raise LocalError(f"{whose}several credentials in {home}; give --operator the folder of one")
        raise LocalError(f"{whose}no credential in {home}; run lockgate join, or give --operator a folder")

    @property
    def is_dev(self) -> bool | None:
        """Whether this directory is of a dev mesh; None when there is no configuration to tell."""
        configured = self._configured()
        return bool(configured.get("dev")) if configured else None

    def _configured_operator(self) -> str | None:
        named = self._configured().get("operator")
        return named if isinstance(named, str) else None

    def _configured(self) -> dict[str, Any]:
        """What this directory's node.toml or ca.toml says, unjudged; empty without one."""
        import tomli

        for path in (self.paths.node_toml, self.paths.ca_toml):
            with contextlib.suppress(OSError, ValueError):
                return tomli.loads(path.read_text())
        return {}


def operator_home() -> Path:
    """The folder of one's own credentials: one folder for each trust domain, one in it for each operator."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "lockgate"


def settings_options(command: F) -> F:
    """Add the global options to a verb, which gets them as ``settings``."""

    @click.option("--dir", "directory", metavar="DIR", help="Use DIR/{etc,lib,run} (LOCKGATE_DIR).")
    @click.option("--operator", metavar="NAME|DIR", help="Whose credential signs (LOCKGATE_OPERATOR).")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.pass_context
    @functools.wraps(command)
    def wrapper(
        ctx: click.Context,
        /,
        *args: Any,
        directory: str | None,
        operator: str | None,
        as_json: bool,
        **rest: Any,
    ) -> Any:
        settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings()
        settings = replace(
            settings,
            directory=directory or settings.directory,
            operator=operator or settings.operator,
            as_json=as_json or settings.as_json,
        )
        ctx.obj = settings
        return command(*args, settings=settings, **rest)

    return wrapper  # type: ignore[return-value]  # click's decorators lose the precise type
