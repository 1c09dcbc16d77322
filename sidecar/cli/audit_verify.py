"""`lockgate audit verify`: whether logs are what was written."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.errors import LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import printable
from sidecar.exits import Exit

if TYPE_CHECKING:
    from pki.bundle import TrustBundle
    from sidecar.audit.chain import Head
    from sidecar.audit.examine import Examined, Findings


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The trust bundle (bundle.statement) to check signatures with; by default that of this machine.",
)
@settings_options
def verify(settings: Settings, folders: tuple[Path, ...], bundle: Path | None) -> int:
    """Whether this node's log is what was written: the first bad record, or how far it holds.

    FOLDERs are copies of logs, or of whole directories, of one or several nodes: each is also held against the signed
    heads that the others keep of it, which shows an end that was cut off. Nothing is asked of the network.
    Exit code 1: a record is bad, or there is none.
    """
    from sidecar.audit.examine import examine

    anchor = _anchor(settings, bundle)
    found = examine(folders or [settings.paths.audit_dir], anchor)
    body = _body(found)
    settings.emit(body, "\n".join(map(printable, _words(found, anchor is not None))))
    return Exit.YES if found.is_right else Exit.NO


def _anchor(settings: Settings, file: Path | None) -> "TrustBundle | None":
    from pki.authority.keystore import BUNDLE_FILE
    from sidecar.identity import load_bundle_file

    if file is not None:
        return load_bundle_file(file)
    for folder in (settings.paths.identity_dir, settings.paths.authority_dir):
        with suppress(LocalError):
            return load_bundle_file(folder / BUNDLE_FILE)
    return None


def _body(found: "Findings") -> dict[str, Any]:
    """Of one log, or the sums of several, with each below ``logs``."""
    logs = [_log(one) for one in found.logs]
    first, reports = logs[0], [one.report for one in found.logs]
    bad = next((one for one in logs if one["first_bad"]), first)
    return {
        **bad,
        "records": sum(one.records for one in reports),
        "volumes": sum(one.volumes for one in reports),
        "forks": list(found.forks),
        "logs": logs,
    }


def _log(one: "Examined") -> dict[str, Any]:
    report, bad = one.report, one.report.first_bad
    return {
        "folder": str(one.folder),
        "node": one.node,
        "records": report.records,
        "volumes": report.volumes,
        "first_bad": {"volume": bad.volume, "line": bad.line, "what": bad.what} if bad else None,
        "torn": report.torn,
        "gaps": report.gaps,
        "checkpoints": report.checkpoints,
        "signed": _place(report.signed),
        "witnessed": _place(report.witnessed),
        "provable": report.provable,
    }


def _place(head: "Head | None") -> dict[str, Any] | None:
    return None if head is None else dict(head.facts())


def _words(found: "Findings", is_trusted: bool) -> Iterator[str]:
    for one in found.logs:
        report, bad = one.report, one.report.first_bad
        whose = f"{one.node}: " if len(found.logs) > 1 else ""
        yield f"{whose}{report.records} records in {report.volumes} volumes"
        if bad:
            yield f"FIRST BAD RECORD: {bad.volume} line {bad.line}: {bad.what}"
        if report.torn:
            yield f"torn: {report.torn} bytes of a last record that was never finished"
        yield from (f"gap: {gap}" for gap in report.gaps)
        yield report.provable
    yield from (f"FORKED: {one}" for one in found.forks)
    if not is_trusted:
        yield "no trust bundle here: signatures and witnesses were not checked; give one with --bundle"
