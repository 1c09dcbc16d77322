"""What is left of a lost CA, put together: what the nodes hold, what a backup holds, and the root's key.

    trust bundle: the newest under this root -> statements judged by it -> the CA's own store -> counters, bans

Nobody who hands over statements is believed: each counts by its signature, as it would have in gossip. A node can
withhold; that is why every node of the roster is wanted.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from pki.authority.recovery import Found
from pki.bundle import TrustBundle, key_of, open_pinned
from pki.clock import Clock
from pki.errors import LocalError, RemoteError
from pki.fields import Wire
from pki.judge import Word
from pki.spki import Key, spki_sha256
from pki.statement import Bundle, Member, Statement, parse
from pki.svid import Signer
from sidecar import lifecycle
from sidecar.gossip.dump import Dump
from sidecar.gossip.journal import Journal
from sidecar.gossip.member import Member as Gossip
from sidecar.objects import Objects
from sidecar.paths import Paths
from sidecar.snapshot import Facts, Snapshot


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was found, by whom it was not told, and what was refused of it (``id: why``)."""

    found: Found
    unheard: tuple[str, ...]
    refused: tuple[str, ...]


class Alone:
    """The outlet of a member that is in no mesh."""

    def send(self, peer: str, message: Wire) -> None:
        """There is no link."""

    async def apply(self, _: Snapshot) -> dict[str, int]:
        return {}

    async def merged(self, statement: Statement, word: Word) -> None:
        """Nobody waits for it."""

    async def trusted(self, _: Statement) -> bool:
        return True

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """Nor for this."""


def newest_bundle(dumps: Iterable[Dump], root: Key) -> tuple[TrustBundle, tuple[Statement, ...]]:
    """The newest trust bundle that this root has signed, and all of them; raises LocalError when there is none."""
    pins = frozenset({spki_sha256(root.public_key())})
    seen: dict[TrustBundle, Statement] = {}
    for raw in (raw for dump in dumps for raw in dump.envelopes):
        try:
            statement = parse(raw)
            if isinstance(statement.body, Bundle):
                seen[open_pinned(statement, pins)] = statement
        except RemoteError:
            continue  # Of another root, or damaged: judged again, and named, when all are taken in.
    if not seen:
        raise LocalError(
            "recover: no trust bundle under this root key; it is another CA's, or a newer root is"
        )
    ordered = sorted(seen, key=lambda one: (one.epoch, one.sequence))
    return ordered[-1], tuple(seen[one] for one in ordered)


def signer_of(root: Key, bundle: TrustBundle) -> Signer:
    """The root's certificate stands in the bundle that it signed."""
    held = next(one for one in bundle.roots if key_of(one) == root.public_key())
    return Signer(held, root)


async def gather(paths: Paths, dumps: Sequence[Dump], root: Key, clock: Clock) -> Gathered:
    """Judge all that is handed over, and keep it as the CA's store; raises LocalError."""
    bundle, bundles = newest_bundle(dumps, root)
    with closing(Journal(paths.statements, create=not paths.statements.exists())) as journal:
        member = Gossip(journal, Objects(paths.objects), bundle, clock, Alone())
        await member.restore(lifecycle.boot_id())
        refused: dict[str, None] = {}
        for dump in dumps:
            for raw in dump.envelopes:
                refused |= dict.fromkeys(await _taken(member, raw))
        if member.unready:
            raise LocalError(f"recover: {member.unready}")
    found = Found(bundle, counters_of(member), _stops(member), bundles)
    return Gathered(found, _unheard(member, dumps), tuple(refused))


async def _taken(member: Gossip, raw: bytes) -> list[str]:
    try:
        return await member.take([raw], None)
    except RemoteError as error:
        return [str(error)]


def counters_of(member: Gossip) -> Mapping[str, int]:
    """What the CA has given out at least, by the names of the register's counters."""
    counters = {"number": member.store.last_number()}
    for kind in ("policy", "canary"):
        newest = member.store.newest(kind)
        sequence = getattr(newest.statement.body, "sequence", 0) if newest else 0
        counters["sequence/policy"] = max(counters.get("sequence/policy", 0), sequence)
    for entry in member.store.members():
        counters[_counter(entry)] = entry.member.sequence
    return counters


def _counter(entry: Member) -> str:
    return f"sequence/member/{type(entry.member).__name__.lower()}/{entry.member.name}"


def _stops(member: Gossip) -> tuple[Statement, ...]:
    of_kinds = member.store.of_kinds
    return tuple(one.statement for one in (*of_kinds("revocation", "cutoff"), *of_kinds("unrevoke")))


def _unheard(member: Gossip, dumps: Iterable[Dump]) -> tuple[str, ...]:
    revoked = member.snapshot.restrictions.revocation_of
    wanted = {name for name in member.snapshot.roster.nodes if revoked(Facts(nodes=(name,))) is None}
    return tuple(sorted(wanted - {dump.holder for dump in dumps}))
