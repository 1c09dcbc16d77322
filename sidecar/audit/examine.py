"""One log or several nodes', judged together: each by itself, by its node's signatures, and by what the others keep."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pki.bundle import TrustBundle
from pki.errors import LocalError
from sidecar.audit.proven import Kept, KeptHeads, Signed, Witnessed, forks
from sidecar.audit.reading import lines_in, record_of
from sidecar.audit.report import Report
from sidecar.audit.verify import Observer, verify_folder
from sidecar.disk import Disk, RealDisk

_WITNESS = b'"kind":"witness"'


@dataclass(frozen=True, slots=True)
class Examined:
    """One log: its folder, whose it says it is, and what it shows."""

    folder: Path
    node: str
    report: Report


@dataclass(frozen=True, slots=True)
class Findings:
    """What several logs show together. ``forks``: two heads that one node signed for one place."""

    logs: tuple[Examined, ...]
    forks: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        reports = [one.report for one in self.logs]
        return not self.forks and all(one.records and one.first_bad is None for one in reports)


def examine(
    folders: Iterable[Path],
    anchor: TrustBundle | None,
    more: Callable[[Path], Sequence[Observer]] = lambda _: (),
    disk: Disk | None = None,
) -> Findings:
    """Judge the logs in ``folders``. Without ``anchor`` no signature counts. Raises LocalError for what is no log.

    ``more``: what else is asked of the log in a folder.
    """
    disk = disk or RealDisk()
    places = [log_folder(one) for one in folders]
    kept = _kept(disk, places, anchor) if anchor is not None else []
    found = []
    for place in places:
        node = _node(disk, place)
        observers = list(more(place))
        if anchor is not None:
            observers += [Signed(anchor), Witnessed(one for one in kept if one.node == node)]
        found.append(Examined(place, node, verify_folder(place, disk, observers)))
    return Findings(tuple(found), tuple(forks(kept)))


def log_folder(path: Path) -> Path:
    """The volumes in ``path``: it is their folder, or a copy of a whole DIR or of its lib."""
    for inner in (path / "lib" / "audit", path / "audit"):
        if inner.is_dir():
            return inner
    return path


def _kept(disk: Disk, places: Iterable[Path], anchor: TrustBundle) -> list[Kept]:
    kept_heads = [(KeptHeads(anchor), place) for place in places]
    for one, place in kept_heads:
        for line in _lines(disk, place):
            if _WITNESS in line and (body := record_of(line)) is not None:
                one.take(body)
    return [kept for one, _ in kept_heads for kept in one.kept]


def _node(disk: Disk, place: Path) -> str:
    header = next((record_of(line) for line in _lines(disk, place)), None)
    return str(header.get("node", "")) if header else ""


def _lines(disk: Disk, place: Path) -> Iterator[bytes]:
    """All lines that can be read. What cannot is for the verification to say."""
    with suppress(LocalError):
        yield from lines_in(disk, place)
