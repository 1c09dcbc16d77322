"""`lockgate statements`: what this member holds of the mesh's signed facts, in one file."""

from pathlib import Path

import click

from pki.errors import LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Write to this file (0600).")
@settings_options
def statements(settings: Settings, out: Path) -> int:
    """Copy all signed statements that this node holds to a file, for `lockgate ca recover`."""
    from pki.keys import save_private
    from sidecar.gossip.dump import encode
    from sidecar.identity import BUNDLE_FILE, Credential
    from sidecar.stored import held_in

    paths = settings.paths
    if not paths.chain.exists():
        raise LocalError(f"{paths.chain}: no node is here; run this on a node, as root")
    name = Credential.load(paths.identity_dir).id.name
    dump = held_in(paths.statements, name, paths.identity_dir / BUNDLE_FILE)
    save_private(encode(dump), out)
    settings.emit(
        {"node": name, "statements": len(dump.envelopes), "file": str(out)},
        f"{len(dump.envelopes)} statements written to {out}",
    )
    return Exit.YES
