"""`lockgate ca backup` and `ca recover`: what survives the loss of the CA's host, and how the CA comes back."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pki.errors import LocalError, RemoteError
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit
from sidecar.paths import Paths

if TYPE_CHECKING:
    from pki.spki import Key
    from sidecar.ca.recovery import Gathered
    from sidecar.gossip.dump import Dump

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--recipient", "recipients", multiple=True, required=True, help="age1... or ssh-ed25519 ...")
@click.option("--out", type=_PATH, required=True, help="Write the backup to this file (0600).")
@settings_options
def backup(settings: Settings, recipients: tuple[str, ...], out: Path) -> int:
    """Write the CA's register, statements and root key to one encrypted file, while it serves."""
    from pki.keys import save_private
    from sidecar.ca.backup import seal

    if not settings.paths.authority_dir.exists():
        raise LocalError(f"{settings.paths.authority_dir}: no CA is here; run this on the CA's host")
    files = _files(settings.paths)
    save_private(seal(files, recipients), out)
    has_root = "root.key" in files
    settings.emit(
        {"file": str(out), "root_key": has_root},
        f"backup written to {out}; the root's key is {'' if has_root else 'not '}in it",
    )
    return Exit.YES


@click.command()
@click.option(
    "--node", "nodes", multiple=True, type=_PATH, help="What `lockgate statements` wrote on a node."
)
@click.option("--backup", "sealed", type=_PATH, help="What `lockgate ca backup` wrote.")
@click.option("--identity", type=_PATH, help="The age key that opens the backup.")
@click.option("--root-key", type=_PATH, help="The root's key; default: that of the backup.")
@click.option("--name", default="main", show_default=True, help="The CA's own name.")
@click.option("--strand", multiple=True, metavar="NODE", help="Go on without having read it. Repeatable.")
@settings_options
def recover(
    settings: Settings,
    *,
    nodes: tuple[Path, ...],
    sealed: Path | None,
    identity: Path | None,
    root_key: Path | None,
    name: str,
    strand: tuple[str, ...],
) -> int:
    """Make a lost CA anew from its root's key, what the nodes hold, and a backup if there is one."""
    import trio

    from pki.clock import SystemClock
    from sidecar.ca.recovery import gather
    from sidecar.lifecycle import make_folders

    paths = settings.paths
    if paths.authority_dir.exists():
        raise LocalError(f"{paths.authority_dir}: there is a CA already, and it is never overwritten")
    files = _opened(sealed, identity)
    dumps = [*_dumps(nodes), *_dumps_of(files)]
    if not dumps:
        raise click.UsageError("name --node FILE for every node, or --backup FILE, or both")
    root = _root(root_key, files)
    make_folders(paths)
    _put_objects(paths, files)
    gathered = trio.run(gather, paths, dumps, root, SystemClock())
    left = [one for one in gathered.unheard if one not in strand]
    if left:
        what = f"these nodes were not read, and may hold what the others do not: {', '.join(left)}"
        settings.emit({"recovered": False, "unheard": left, "refused": gathered.refused}, what)
        settings.say("run `lockgate statements --out FILE` on each, or leave it out with --strand NAME")
        return Exit.UNCONFIRMED
    return _rebuild(settings, name, root, (gathered, files))


def _rebuild(settings: Settings, name: str, root: "Key", left: "tuple[Gathered, dict[str, bytes]]") -> int:
    from dataclasses import replace

    from pki.authority.keystore import Birth
    from pki.authority.recovery import rebuild
    from pki.clock import SystemClock
    from pki.spiffe import SpiffeId
    from sidecar.ca.backup import CONFIG, REGISTER, ROOT_KEY
    from sidecar.ca.recovery import signer_of
    from sidecar.cli.ca import Places, ca_toml

    (gathered, files), paths = left, settings.paths
    found = replace(gathered.found, register=files.get(REGISTER), root_key=files.get(ROOT_KEY))
    who = SpiffeId.for_ca(found.bundle.trust_domain, _name(paths, files) or name)
    if not paths.ca_toml.exists():
        kept = files.get(CONFIG) or ca_toml(who, Places(None, None, None)).encode()
        paths.ca_toml.write_bytes(kept)
    # Last: the keys are what makes it a CA, so what broke off before them is simply done again.
    birth = Birth(who, SystemClock().wall(), secrets.token_bytes)
    bundle = rebuild(paths.authority_dir, birth, signer_of(root, found.bundle), found)
    answer = {
        "recovered": True,
        "ca": str(who),
        "epoch": bundle.payload.epoch,
        "revocations": sum(one.kind == "revocation" for one in found.stops),
        "refused": gathered.refused,
    }
    settings.emit(answer, _told(answer))
    return Exit.YES


def _told(answer: dict[str, object]) -> str:
    return f"""{answer["ca"]} is back, in epoch {answer["epoch"]}, with {answer["revocations"]} live revocations
next: check {"ca.toml"}, run lockgate ca serve, and once all have renewed: lockgate ca rotate retire"""


def _files(paths: Paths) -> dict[str, bytes]:
    """What goes into a backup."""
    import tempfile

    from pki.authority.keystore import BUNDLE_FILE, REGISTER_FILE, open_online, read_standing
    from pki.authority.register import Register
    from sidecar.ca import backup as made
    from sidecar.gossip.dump import encode
    from sidecar.stored import held_in

    folder, files = paths.authority_dir, {}
    with (
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        Register.open(folder / REGISTER_FILE) as register,
    ):
        copy = Path(scratch) / REGISTER_FILE
        register.copy(copy)
        files[made.REGISTER] = copy.read_bytes()
    name = open_online(folder).id.name
    files[made.STATEMENTS] = encode(held_in(paths.statements, name, folder / BUNDLE_FILE))
    files[made.CONFIG] = paths.ca_toml.read_bytes()
    root_key = folder / f"{read_standing(folder).active.root}.key"
    if root_key.exists():
        files[made.ROOT_KEY] = root_key.read_bytes()
    for path in paths.objects.glob("[0-9a-f]" * 64):
        files[made.OBJECTS + path.name] = path.read_bytes()
    return files


def _opened(sealed: Path | None, identity: Path | None) -> dict[str, bytes]:
    from pki.keys import load_private
    from sidecar.ca.backup import unseal

    if sealed is None:
        return {}
    if identity is None:
        raise click.UsageError("--backup takes --identity FILE, the age key that opens it")
    return unseal(_read(sealed), load_private(identity))


def _dumps(nodes: tuple[Path, ...]) -> "list[Dump]":
    from sidecar.gossip.dump import decode

    found = []
    for path in nodes:
        try:
            found.append(decode(_read(path)))
        except RemoteError as error:
            raise LocalError(f"{path}: {error}") from None
    return found


def _dumps_of(files: dict[str, bytes]) -> "list[Dump]":
    from sidecar.ca.backup import STATEMENTS
    from sidecar.gossip.dump import decode

    return [decode(files[STATEMENTS])] if files else []


def _root(path: Path | None, files: dict[str, bytes]) -> "Key":
    import tempfile

    from pki.keys import load, load_private, save_private
    from sidecar.ca.backup import ROOT_KEY
    from sidecar.operator import passphrase

    if path is None and ROOT_KEY not in files:
        raise click.UsageError("--root-key FILE: the root's key is in no backup")
    with tempfile.TemporaryDirectory() as scratch:
        if path is None:
            path = Path(scratch) / ROOT_KEY
            save_private(files[ROOT_KEY], path)
        is_encrypted = b"ENCRYPTED" in load_private(path)
        return load(path, passphrase("passphrase of the root key") if is_encrypted else None)


def _put_objects(paths: Paths, files: dict[str, bytes]) -> None:
    from sidecar.ca.backup import OBJECTS
    from sidecar.objects import Objects

    kept = Objects(paths.objects)
    for name, content in files.items():
        if name.startswith(OBJECTS):
            kept.put(content)


def _name(paths: Paths, files: dict[str, bytes]) -> str | None:
    """The CA's name by the configuration that there is, or that is in the backup."""
    import tomli

    from sidecar.ca.backup import CONFIG

    text = paths.ca_toml.read_bytes() if paths.ca_toml.exists() else files.get(CONFIG, b"")
    try:
        named = tomli.loads(text.decode()).get("name")
    except ValueError:
        return None
    return named if isinstance(named, str) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None
