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
            click.echo(json.dumps({"schema_version": 1, **{k: v for k, v in body.items() if k != "schema_version"}}))
        elif text:
            click.echo(text)

    def say(self, text: str) -> None:
        """Progress for people, on stderr."""
        if not self.as_json:
            click.echo(text, err=True)

    @property
    def operator_folder(self) -> Path:
        """Where the operator's credential is: --operator, LOCKGATE_OPERATOR, this daemon's default, the only one."""
        named = self.operator or os.environ.get(OPERATOR_VARIABLE) or self._configured_operator()
        home = operator_home()
        if named and os.sep in named:
            return Path(named)
        found = sorted(home.glob(f"*/{named or '*'}"))
        if len(found) == 1:
            return found[0]
        if named and Path(named).is_dir():
            return Path(named)
        if named:
            raise LocalError(f"operator {named}: no credential in {home}; run: lockgate join")
        what = "several credentials" if found else "no operator credential"
        raise LocalError(f"{what} in {home}; name one with --operator NAME or a folder")

    @property
    def is_dev(self) -> bool | None:
        """Whether this directory is of a dev mesh; None when there is no configuration to tell."""
        dev = self._configured("dev")
        return None if dev is None and not self._configs() else bool(dev)

    def _configured_operator(self) -> str | None:
        """``operator`` in this directory's node.toml or ca.toml."""
        value = self._configured("operator")
        return value if isinstance(value, str) else None

    def _configured(self, key: str) -> object:
        import tomli

        for text in self._configs():
            try:
                value: object = tomli.loads(text).get(key)
            except ValueError:
                continue
            if value is not None:
                return value
        return None

    def _configs(self) -> list[str]:
        """What there is of node.toml and ca.toml."""
        found = []
        for path in (self.paths.node_toml, self.paths.ca_toml):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found.append(path.read_text())
        return found


def operator_home() -> Path:
    """The folder of one's own credentials: one folder for each trust domain, one in it for each operator."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "lockgate"


def settings_options(command: F) -> F:
    """Add the global options to a verb, which gets them as ``settings``."""

    @click.option("--dir", "directory", metavar="DIR", help="Use DIR/{etc,lib,run} (LOCKGATE_DIR).")
    @click.option("--operator", metavar="NAME|DIR", help="Sign with this operator credential (LOCKGATE_OPERATOR).")
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
