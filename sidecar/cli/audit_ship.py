"""`lockgate audit ship`: the records into a database."""

from dataclasses import asdict
from pathlib import Path

import click

from pki.errors import LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    metavar="URL",
    help="postgresql://USER@HOST/DATABASE; the password comes from ~/.pgpass.",
)
@settings_options
def ship(settings: Settings, folders: tuple[Path, ...], to: str) -> int:
    """Send what a PostgreSQL lacks of this node's records, or of the FOLDERs', and make its views.

    Run it as often as you like, from a timer say: nothing is sent twice, and after a crash of either side the next run
    goes on. Each volume is checked first: exit code 1, and nothing behind it goes out, where a record is bad or the
    database holds another one.
    """
    from sidecar.audit.examine import log_folder

    try:
        from sidecar.audit import ship as shipping
    except ImportError:
        raise LocalError("audit ship needs a library; run: pip install 'lockgate[postgresql]'") from None

    target = shipping.check_target(to)
    done = [shipping.ship(log_folder(one), target) for one in folders or [settings.paths.audit_dir]]
    lines = [f"{one.node}: {one.records} records sent" for one in done]
    lines += [f"BAD: {one.fault}" for one in done if one.fault]
    body = {"records": sum(one.records for one in done), "logs": [asdict(one) for one in done]}
    settings.emit(body, "\n".join(lines))
    return Exit.NO if any(one.fault for one in done) else Exit.YES
