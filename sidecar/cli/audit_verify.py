"""`lockgate audit verify`: whether logs are what was written."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
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
    from sidecar.audit.redecide import Redecided
    from sidecar.policy.model import Policy


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The trust bundle (bundle.statement) to check signatures with; by default that of this machine.",
)
@click.option("--redecide", is_flag=True, help="Make every recorded decision again, and compare.")
@settings_options
def verify(settings: Settings, folders: tuple[Path, ...], bundle: Path | None, redecide: bool) -> int:
    """Whether this node's log is what was written: the first bad record, or how far it holds.

    FOLDERs are copies of logs, or of whole directories, of one or several nodes: each is also held against the signed
    heads that the others keep of it, which shows an end that was cut off. Nothing is asked of the network.
    With --redecide each decision is made again from its record and from the bodies in the folder `objects` beside the
    log. Exit code 1: a record is bad, or there is none, or a decision is another one now.
    """
    from sidecar.audit.examine import examine

    anchor, decided = _anchor(settings, bundle), _Decisions()
    places = folders or [settings.paths.audit_dir]
    found = examine(places, anchor, decided.of if redecide else lambda _: ())
    words = [*_words(found, anchor is not None), *(decided.words() if redecide else ())]
    settings.emit(_body(found) | (decided.body() if redecide else {}), "\n".join(map(printable, words)))
    return Exit.YES if found.is_right and decided.is_right else Exit.NO


class _Decisions:
    """What became of the decisions of all logs together."""

    def __init__(self) -> None:
        self._made: list[Redecided] = []

    def of(self, place: Path) -> "list[Redecided]":
        """Judges those of the log in ``place``; its bodies lie beside it."""
        from sidecar.audit.redecide import Redecided
        from sidecar.defaults import POLICY_BYTES
        from sidecar.objects import Kept
        from sidecar.policy.load import load_policy

        def read(text: bytes, digest: str) -> "Policy":
            return load_policy(text, f"policy {digest[:12]}", POLICY_BYTES)

        self._made.append(Redecided(Kept(place.parent / "objects").read, read))
        return self._made[-1:]

    @property
    def is_right(self) -> bool:
        return all(one.is_right for one in self._made)

    def body(self) -> dict[str, Any]:
        differences = [asdict(one) for made in self._made for one in made.differences]
        return {
            "decisions": self._sum("decisions"),
            "disagreements": self._sum("disagreements"),
            "not_comparable": self._sum("not_comparable"),
            "missing": self._sum("missing"),
            "differences": differences,
        }

    def words(self) -> Iterator[str]:
        sums = {name: self._sum(name) for name in ("disagreements", "not_comparable", "missing")}
        yield f"{self._sum('decisions')} decisions made again, {sums['disagreements']} of them are others now"
        if sums["not_comparable"]:
            yield f"{sums['not_comparable']} were made by another version of the decision: not comparable"
        if sums["missing"]:
            yield f"{sums['missing']} could not be made again: what was in force then is not in the folder objects"
        for made in self._made:
            yield from (f"DECISION: {one.volume} line {one.line}: {one.what}" for one in made.differences)

    def _sum(self, name: str) -> int:
        return sum(getattr(one, name) for one in self._made)


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
