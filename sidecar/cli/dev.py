"""lockgate dev: a whole mesh on this machine."""

import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.cli.settings import Settings, settings_options
from sidecar.dev.layout import AGENT, AGENTS, TOOLS, open_layout
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.dev.layout import Layout
    from sidecar.dev.mesh import Mesh


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    """Ctrl-C, or an end ordered from outside, wherever we are."""


@click.command()
@click.option("--tour", is_flag=True, help="Play the story by itself and end.")
@click.option(
    "--policy", type=click.Path(path_type=Path, exists=True), help="Apply this policy as it stands."
)
@click.option(
    "--nodes", default=1, show_default=True, type=click.IntRange(1, 50), help="How many tool nodes."
)
@click.option("--lifetime", help="Shorten certificates of nodes and sessions, to watch renewals (like 10s).")
@settings_options
def dev(settings: Settings, tour: bool, policy: Path | None, nodes: int, lifetime: str | None) -> int:
    """Run a CA, an agents' node and a tools' node with real tools here, until Ctrl-C. --dir D keeps them in D."""
    from sidecar.dev.mesh import Mesh

    keep = settings.paths.etc.parent if settings.directory else None
    root = keep or Path(tempfile.mkdtemp(prefix="lockgate-dev-"))
    for number in ENDING:
        signal.signal(number, _end)
    mesh = None
    try:
        mesh = Mesh(open_layout(root, nodes), settings.say, lifetime or "")
        mesh.start(policy)
        if tour:
            from sidecar.dev.tour import play

            return Exit.YES if play(mesh, click.echo) else Exit.NO
        _announce(settings, mesh)
        while True:
            signal.pause()
    except _Stopped:
        return Exit.INTERRUPTED
    finally:
        if mesh is not None:
            mesh.stop()
        if keep is None:
            shutil.rmtree(root, ignore_errors=True)


def _end(_number: int, _frame: object) -> None:
    """Once: what follows is cleaning up, which a second Ctrl-C must not break off."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped


def _announce(settings: Settings, mesh: "Mesh") -> None:
    layout = mesh.layout
    if settings.as_json:
        ready = {
            "schema_version": 1,
            "event": "ready",
            "dir": str(layout.root),
            "env": str(layout.env),
            "session": mesh.session,
            "pids": {name: child.pid for name, child in mesh.children.items()},
        }
        click.echo(json.dumps(ready))
        return
    agents = f"lockgate --dir {layout.member(AGENTS)}"
    bindings = layout.ports.bindings
    click.echo(
        f"""
A mesh is running: a CA, {len(layout.nodes)} nodes, a wiki, an echo and an MCP tool beside {", ".join(layout.tool_nodes)}.
You are the agent {AGENT}, in session {mesh.session or "(none)"}.

Allowed, through two sidecars:
  curl http://127.0.0.1:{bindings["wiki"]}/api/pages
Refused, no rule grants it (curl sees a reset connection):
  curl http://127.0.0.1:{bindings["vault"]}/api/pages
Both are on record, on both nodes where both took part:
  {agents} audit tail
  {lockgate_words(layout, TOOLS)} audit tail
Stop everything, and see the next curl refused; alice locked, so bob unlocks:
  {agents} lock all
  {agents} lock ls
  {agents} --operator {layout.operator("bob")} unlock ID

Variables for scripts: . {layout.env}
Ctrl-C ends it all."""
    )


def lockgate_words(layout: "Layout", name: str) -> str:
    """The command line for one member, as a person types it."""
    return f"lockgate --dir {layout.member(name)}"
