"""`lockgate stream ls | cut`."""

import click

from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import ID
from sidecar.control.client import call
from sidecar.exits import Exit


@click.group()
@settings_options
def stream(settings: Settings) -> None:
    """Live streams of this node."""


@stream.command(name="ls")
@settings_options
def list_streams(settings: Settings) -> int:
    """The live streams, in both roles."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/streams")
    lines = [
        f"{one['stream']}  {one['agent']} -> {one['service']}  session {one['session']}"
        f"  {one['bytes_in']} bytes in, {one['bytes_out']} out"
        for one in answer["streams"]
    ]
    settings.emit(answer, "\n".join(lines) or "no live streams")
    return Exit.YES


@stream.command()
@click.argument("stream_id", metavar="ID", type=ID)
@settings_options
def cut(settings: Settings, stream_id: str) -> int:
    """End one stream at once."""
    answer = call(settings.paths.admin_sock, "POST", f"/v1/streams/{stream_id}/cut")
    settings.emit(answer, f"cut {stream_id}")
    return Exit.YES
