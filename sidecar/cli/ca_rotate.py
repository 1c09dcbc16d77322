"""`lockgate ca rotate` and `ca taint`: successors of the CA's keys, on its host, with the root's passphrase."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pki.errors import LocalError, RefusedError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import DURATION, clock_time
from sidecar.cli.wait import report
from sidecar.control.client import call
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.authority.keystore import Birth
    from pki.authority.succession import Successor

F = TypeVar("F", bound=Callable[..., Any])
POLL_SECONDS = 0.05
PATH = "/v1/rollover"
NEXT = {"idle": "prepare", "prepared": "activate", "activated": "retire"}

_key_option = click.option(
    "--key",
    "parts",
    multiple=True,
    type=click.Choice(["root", "issuer", "statement"]),
    help="Of which key; repeatable (default: issuer and statement). A root takes both along.",
)


@dataclass(frozen=True)
class Wanted:
    """What a step is taken with. ``wait`` in microseconds."""

    strand: frozenset[str]
    wait: int
    root_key: Path | None
    parts: tuple[str, ...] = ()


def _step_options(command: F) -> F:
    for option in (
        click.option(
            "--root-key", type=click.Path(path_type=Path), help="The root's key, if kept elsewhere."
        ),
        click.option(
            "--wait", type=DURATION, default="1m", show_default=True, help="How long for everybody."
        ),
        click.option("--strand", multiple=True, metavar="NODE", help="Go on without it. Repeatable."),
    ):
        command = option(command)
    return command


@click.group()
@settings_options
def rotate(settings: Settings) -> None:
    """Give the CA's keys successors, with no moment at which a member cannot be verified."""


@rotate.command()
@settings_options
def plan(settings: Settings) -> int:
    """Say how far a rollover has come, and whom the next step would cut off now, and why."""
    standing = call(settings.paths.admin_sock, "GET", PATH)
    step = NEXT[standing["phase"]]
    lines = [
        f"phase {standing['phase']}, trust bundle {standing['bundle']['sequence']}; next: lockgate ca rotate {step}",
        *_lines(standing["steps"][step]),
    ]
    settings.emit({**standing, "next": step}, "\n".join(lines))
    return Exit.NO if standing["steps"][step] else Exit.YES


@rotate.command()
@_key_option
@_step_options
@settings_options
def prepare(settings: Settings, *, parts: tuple[str, ...], **given: Any) -> int:
    """Make new keys and have every node trust them, beside the old ones."""
    return _take(settings, "prepare", _wanted(given, parts or ("issuer", "statement")))


@rotate.command()
@_step_options
@settings_options
def activate(settings: Settings, **given: Any) -> int:
    """Sign with the new keys from now on; the old ones still count. Members renew."""
    return _take(settings, "activate", _wanted(given))


@rotate.command()
@_step_options
@settings_options
def retire(settings: Settings, **given: Any) -> int:
    """Trust the old keys no more, and delete them."""
    return _take(settings, "retire", _wanted(given))


@rotate.command()
@_step_options
@settings_options
def rollback(settings: Settings, **given: Any) -> int:
    """One phase back: to the old keys, then to none but them."""
    return _take(settings, "rollback", _wanted(given))


@click.command()
@_key_option
@click.option("--root-key", type=click.Path(path_type=Path), help="The root's key, if kept elsewhere.")
@click.option("--wait", type=DURATION, default="1m", show_default=True, help="How long for everybody.")
@settings_options
def taint(settings: Settings, *, parts: tuple[str, ...], root_key: Path | None, wait: int) -> int:
    """A key was stolen: new ones at once, and nothing that the old ones signed counts any more."""
    successor = _successor(settings, root_key)
    successor.taint(_parts(parts or ("issuer", "statement")))
    return _publish(settings, "taint", wait)


def _take(settings: Settings, step: str, wanted: Wanted) -> int:
    successor = _ready(settings, step, wanted) or _successor(settings, wanted.root_key)
    left = _await(settings, step, wanted)
    if left:
        settings.emit({"step": step, "taken": False, "broken": left}, "\n".join(_lines(left)))
        settings.say(f"{step}: not taken; wait for them, or leave them behind with --strand NAME")
        return Exit.UNCONFIRMED
    from pki.authority.rollover import Step

    successor.take(Step(step), _parts(wanted.parts))
    return _publish(settings, step, wanted.wait)


def _await(settings: Settings, step: str, wanted: Wanted) -> list[dict[str, Any]]:
    """Who would be cut off by ``step`` and is not to be left behind, once the wait is over."""
    deadline = time.monotonic() + wanted.wait / 1_000_000
    while True:
        standing = call(settings.paths.admin_sock, "GET", PATH)
        if step not in standing["steps"]:
            possible = ", ".join(standing["steps"])
            raise RefusedError(f"rollover: no {step} while {standing['phase']}; possible now: {possible}")
        left = [one for one in standing["steps"][step] if not _is_stranded(one["who"], wanted.strand)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_SECONDS)  # noqa: TID251 - a command line has nothing else to do


def _is_stranded(who: str, strand: frozenset[str]) -> bool:
    return who in strand or who.removeprefix("node:") in strand


def _publish(settings: Settings, what: str, wait: int) -> int:
    answer = call(settings.paths.admin_sock, "POST", PATH, {"what": what})
    done = f"{what}: done; phase {answer['phase']}, trust bundle {answer['bundle']['sequence']}"
    return report(settings, {"step": what, "taken": True, **answer}, wait, done)


def _lines(broken: list[dict[str, Any]]) -> list[str]:
    return [
        f"  {one['who']}: {one['why']}" + (f", until {clock_time(one['until'])}" if one["until"] else "")
        for one in broken
    ]


def _wanted(given: dict[str, Any], parts: tuple[str, ...] = ()) -> Wanted:
    return Wanted(frozenset(given["strand"]), given["wait"], given["root_key"], parts)


def _parts(names: tuple[str, ...]) -> Any:
    from pki.authority.rollover import Part

    return {Part(name) for name in names}


def _ready(settings: Settings, step: str, wanted: Wanted) -> "Successor | None":
    """Who takes a step that the root has signed beforehand: it needs neither its key nor its passphrase."""
    from pki.authority.rollover import Step
    from pki.authority.succession import RootAccess, Successor

    successor = Successor(_folder(settings), _birth(settings), RootAccess(None))
    return successor if successor.ready(Step(step), _parts(wanted.parts)) else None


def _successor(settings: Settings, root_key: Path | None) -> "Successor":
    """Opened before anything is asked of the daemon: the key may be elsewhere, the passphrase wrong."""
    from pki.authority.keystore import read_standing
    from pki.authority.succession import RootAccess, Successor
    from pki.keys import load_private
    from sidecar.operator import passphrase

    folder = _folder(settings)
    path = root_key or folder / f"{read_standing(folder).active.root}.key"
    is_encrypted = b"ENCRYPTED" in load_private(path)
    secret = passphrase("passphrase of the root key") if is_encrypted else None
    return Successor(folder, _birth(settings), RootAccess(secret, root_key))


def _folder(settings: Settings) -> Path:
    folder = settings.paths.authority_dir
    if not folder.exists():
        raise LocalError(f"{folder}: no CA is here; run this on the CA's host")
    return folder


def _birth(settings: Settings) -> "Birth":
    from pki.authority.keystore import Birth, open_online
    from pki.clock import SystemClock

    return Birth(open_online(_folder(settings)).id, SystemClock().wall(), secrets.token_bytes)
