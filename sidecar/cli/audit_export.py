"""`lockgate audit export`: the records in the words of other systems."""

import json
from pathlib import Path

import click

from pki.clock import Wall
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.since import SINCE
from sidecar.exits import Exit


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option("--ocsf", is_flag=True, required=True, help="As events of OCSF 1.3.0, one JSON object a line.")
@click.option("--since", type=SINCE, default="0", metavar="AGO|TIME", help="2h, 7d, or 2026-12-01T09:00:00Z.")
@settings_options
def export(settings: Settings, folders: tuple[Path, ...], ocsf: bool, since: Wall) -> int:  # noqa: ARG001 - the one form
    """The records of this node, or of the FOLDERs, as JSON Lines for a log collector.

    Each event carries the line that it was made of, so it can be shown in the log. Nothing is judged here: see
    `audit verify`.
    """
    from sidecar.audit.examine import log_folder
    from sidecar.audit.ocsf import event_of
    from sidecar.audit.reading import is_since, lines_in, record_of
    from sidecar.disk import RealDisk

    for folder in folders or [settings.paths.audit_dir]:
        for line in lines_in(RealDisk(), log_folder(folder)):
            body = record_of(line)
            if body is None or not is_since(body, since):
                continue
            event = event_of(body, line.decode(errors="replace"))
            if event is not None:
                click.echo(json.dumps(event, sort_keys=True, ensure_ascii=False))
    return Exit.YES
