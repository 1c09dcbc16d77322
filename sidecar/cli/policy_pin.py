"""`lockgate policy pin`: the definitions of MCP tools that this node goes by."""

import click

from sidecar.cli.settings import Settings, settings_options
from sidecar.control.client import call
from sidecar.exits import Exit

SHOWN_DIGITS = 12


@click.group()
@settings_options
def pin(settings: Settings) -> None:
    """What the tools of MCP services are defined as, pinned at first sight on the node beside them."""


@pin.command(name="ls")
@settings_options
def list_pins(settings: Settings) -> int:
    """The tools this node has seen. Exit code 1 when one of them is refused for its definition."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/pins")
    lines = [
        f"{one['service']}  {one['tool']}  {one['seen'][:SHOWN_DIGITS]}  {one['risk']} risk"
        + (f"  refused: {one['fault']}" if one["fault"] else "")
        for one in answer["pins"]
    ]
    settings.emit(answer, "\n".join(lines) or "no MCP tools seen yet")
    return Exit.NO if any(one["fault"] for one in answer["pins"]) else Exit.YES


@pin.command()
@click.argument("service")
@click.argument("tool")
@click.argument("digest")
@settings_options
def approve(settings: Settings, service: str, tool: str, digest: str) -> int:
    """Take a tool's definition as it was seen last. DIGEST is what `pin ls` shows of it, or more of it.

    A tool that the policy pins is approved by another digest in its [[pins]].
    """
    wanted = {"service": service, "tool": tool, "seen": digest.lower()}
    answer = call(settings.paths.admin_sock, "POST", "/v1/pins/approve", wanted)
    settings.emit(answer, f"{service} {tool}: {answer['fault'] or 'approved'}")
    return Exit.NO if answer["fault"] else Exit.YES
