"""A step of a rollover on disk: new keys, a new trust bundle, and which keys count from now on.

Order, so that a crash leaves a CA that opens and a step that can be taken again:

1. new keys are written, under names that no other generation had;
2. the bundle is replaced. It lists at least the keys that count before and after the step;
3. ``standing.json`` is replaced: now the step is taken;
4. keys that count no more are deleted.

While the root's key is at hand and no rollover is on, it signs the next GENERATIONS of online keys beforehand, and the
trust bundles of their phases: those steps need no root. Such a successor is valid from about half of its predecessor's
life on. Whoever stole the folder has it too, so it heals no theft: `taint` does, whose epoch ends it with all others.

Blocking. What needs the root's key is called by the command line; a step that was signed beforehand by the daemon too.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pki import keys, svid
from pki.authority.keystore import (
    BUNDLE_FILE,
    ONLINE_LIFETIME,
    ROOT_LIFETIME,
    STANDING_FILE,
    Birth,
    Names,
    Pair,
    Standing,
    certificate,
    open_online,
    read_standing,
    save_pair,
)
from pki.authority.rollover import Part, Phase, Step, after
from pki.bundle import key_of, open_successor
from pki.certificate import read
from pki.clock import DAY, Wall
from pki.errors import LocalError
from pki.statement import Bundle, Statement, Terms, parse, sign
from pki.svid import Signer

GENERATIONS = 2
"""How many successors of the online keys are signed beforehand."""

SPARE_AFTER = ONLINE_LIFETIME // 2 - DAY
"""When the first of them begins to count, each next one as long after it: just before half life."""

ONLINE = frozenset({Part.ISSUER, Part.STATEMENT})


@dataclass(frozen=True, slots=True)
class RootAccess:
    """How the root's key is opened. ``key``: where it is kept, if not in the CA's folder."""

    passphrase: bytes | None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Successor:
    """Takes steps for the CA in ``folder``. ``birth`` has the time, and the randomness of serial numbers."""

    folder: Path
    birth: Birth
    root: RootAccess

    def take(self, step: Step, parts: Collection[Part] = ()) -> Statement:
        """Take one step; the trust bundle that it leaves. ``parts`` is what ``prepare`` makes successors of."""
        ready = self.ready(step, parts)
        if ready is not None:
            return self._commit(*ready)
        standing, authority = read_standing(self.folder), open_online(self.folder)
        phase = after(standing.phase, step)
        names, other = standing.active, standing.other
        sequence = max(authority.bundle.sequence, standing.reserved) + 1
        if step is Step.PREPARE:
            other = self._make(names, frozenset(parts), sequence, self._root(names.root))
        elif step in (Step.ACTIVATE, Step.ROLLBACK) and Phase.ACTIVATED in (phase, standing.phase):
            names, other = other or names, names
            self._check_keys(names)
        kept = Standing(phase, names, None if phase is Phase.IDLE else other)
        # By a root that the phase before trusts: the old one, until everybody knows the new one.
        is_swapped = standing.phase is Phase.ACTIVATED and step is not Step.RETIRE
        signing = standing.other if is_swapped and standing.other else standing.active
        return self._put_in_force(kept, signing.root, (authority.bundle.epoch, sequence))

    def ready(self, step: Step, parts: Collection[Part] = ()) -> tuple[Standing, Statement] | None:
        """What ``step`` leaves behind, if the root has signed it beforehand, and its keys are valid by now."""
        standing, authority = read_standing(self.folder), open_online(self.folder)
        kept = by_spare(standing, step, frozenset(parts))
        path = self.folder / f"spare-{authority.bundle.sequence + 1}.statement"
        if kept is None or not path.exists() or not self._is_valid(standing.spares[0]):
            return None
        statement = parse(path.read_bytes())
        follows = open_successor(statement, authority.bundle)
        is_meant = (follows.epoch, follows.issuers, follows.statement_keys) == (
            authority.bundle.epoch,
            tuple(self._listed(kept, "issuer")),
            tuple(self._listed(kept, "statement")),
        )
        return (kept, statement) if is_meant else None

    def stock(self) -> None:
        """Sign the next generations beforehand. For a new CA; every other step that ends a rollover does it itself."""
        standing, bundle = read_standing(self.folder), open_online(self.folder).bundle
        signer = self._root(standing.active.root)
        kept = self._stocked(standing, signer, (bundle.epoch, bundle.sequence))
        keys.save_private(msgspec.json.encode(kept), self.folder / STANDING_FILE)

    def taint(self, parts: Collection[Part]) -> Statement:
        """New keys at once in place of stolen ones, which count nowhere any more; the epoch goes up with the bundle."""
        if Part.ROOT in parts:
            raise LocalError(
                "taint: whoever has the root's key is the CA; make a new one, and let everybody join it"
            )
        standing, authority = read_standing(self.folder), open_online(self.folder)
        sequence = max(authority.bundle.sequence, standing.reserved) + 1
        fresh = self._make(standing.active, frozenset(parts), sequence, self._root(standing.active.root))
        return self._put_in_force(
            Standing(active=fresh), standing.active.root, (authority.bundle.epoch + 1, sequence)
        )

    def _put_in_force(self, standing: Standing, root: str, terms: tuple[int, int]) -> Statement:
        signer = self._root(root)
        statement = self._bundle(standing, signer, terms)
        if standing.phase is Phase.IDLE and standing.active.root == root:
            standing = self._stocked(standing, signer, terms)
        return self._commit(
            msgspec.structs.replace(standing, reserved=max(standing.reserved, terms[1])), statement
        )

    def _commit(self, standing: Standing, statement: Statement) -> Statement:
        keys.save_private(statement.raw, self.folder / BUNDLE_FILE)
        keys.save_private(msgspec.json.encode(standing), self.folder / STANDING_FILE)
        self._sweep(standing)
        return statement

    def _stocked(self, standing: Standing, root: Signer, terms: tuple[int, int]) -> Standing:
        """``standing`` with spares: their keys, and the bundles of all their phases, are on disk."""
        (epoch, sequence), names = terms, standing.active
        spares: list[Names] = []
        for number in range(GENERATIONS):
            later = Wall(self.birth.at + (number + 1) * SPARE_AFTER)
            spare = replace(self, birth=replace(self.birth, at=later))._make(
                names, ONLINE, sequence + 1, root
            )
            for phase in (
                Standing(Phase.PREPARED, names, spare),
                Standing(Phase.ACTIVATED, spare, names),
                Standing(Phase.IDLE, spare),
            ):
                sequence += 1
                raw = self._bundle(phase, root, (epoch, sequence)).raw
                keys.save_private(raw, self.folder / f"spare-{sequence}.statement")
            spares.append(spare)
            names = spare
        return msgspec.structs.replace(standing, spares=tuple(spares), reserved=sequence)

    def _bundle(self, standing: Standing, root: Signer, terms: tuple[int, int]) -> Statement:
        epoch, sequence = terms
        body = Bundle(
            trust_domain=self.birth.ca.trust_domain,
            sequence=sequence,
            roots=self._listed(standing, "root"),
            issuers=self._listed(standing, "issuer"),
            statement_keys=self._listed(standing, "statement"),
        )
        life = Terms(epoch=epoch, issued=self.birth.at, expires=read(root.certificate).not_after)
        return sign("bundle", body, life, root.key, (root.certificate,))

    def _listed(self, standing: Standing, part: str) -> list[bytes]:
        """The certificates that count, each once, the one in use first."""
        files = dict.fromkeys(getattr(names, part) for names in _generations(standing))
        return [certificate(self.folder / f"{name}.pem") for name in files]

    def _is_valid(self, names: Names) -> bool:
        held = [
            read(certificate(self.folder / f"{name}.pem"))
            for name in (names.issuer, names.statement, names.tls)
        ]
        return all(one.not_before <= self.birth.at < one.not_after for one in held)

    def _make(self, before: Names, parts: frozenset[Part], generation: int, root: Signer) -> Names:
        """New keys of these parts on disk. The CA's TLS leaf is new each time: it lives no longer than the others."""
        if not parts:
            raise LocalError("rollover: of which key? root, issuer or statement")
        parts = frozenset(Part) if Part.ROOT in parts else parts
        name = before.root
        if Part.ROOT in parts:
            key, name = keys.generate(), f"root-{generation}"
            root = Signer(svid.root(self.birth.authority(ROOT_LIFETIME), key), key)
            save_pair(self.folder, name, Pair(root.certificate, key), self.root.passphrase)
        made = {"root": name, "tls": f"tls-{generation}"}
        key = keys.generate()
        save_pair(self.folder, made["tls"], Pair(svid.leaf(self.birth.leaf(key), root), key))
        if Part.ISSUER in parts:
            key, made["issuer"] = keys.generate(), f"issuer-{generation}"
            issuer = svid.issuer(self.birth.authority(ONLINE_LIFETIME), key.public_key(), root)
            save_pair(self.folder, made["issuer"], Pair(issuer, key))
        if Part.STATEMENT in parts:
            key, made["statement"] = keys.generate(), f"statement-{generation}"
            save_pair(
                self.folder, made["statement"], Pair(svid.statement_key(self.birth.leaf(key), root), key)
            )
        return msgspec.structs.replace(before, **made)

    def _root(self, name: str) -> Signer:
        path = self.root.key or self.folder / f"{name}.key"
        key = keys.load(path, self.root.passphrase)
        der = certificate(self.folder / f"{name}.pem")
        if key.public_key() != key_of(der):
            raise LocalError(f"{path}: not the key of {name}.pem, the root that signs this step")
        return Signer(der, key)

    def _check_keys(self, names: Names) -> None:
        """A CA that was recovered knows its issuer of before by name only: nothing leads back there."""
        for name in (names.issuer, names.statement, names.tls):
            if not (self.folder / f"{name}.key").exists():
                raise LocalError(
                    f"rollover: {name}.key is not here; after `ca recover` nothing leads back, go on to retire"
                )

    def _sweep(self, standing: Standing) -> None:
        """Delete the keys of generations that count no more: what is gone cannot be stolen."""
        generations = [*_generations(standing), *standing.spares]
        kept = {getattr(names, part) for names in generations for part in Names.__struct_fields__}
        for path in self.folder.glob("*.key"):
            if path.stem not in kept and path.stem.partition("-")[0] in Names.__struct_fields__:
                path.unlink()
                path.with_suffix(".pem").unlink(missing_ok=True)
        for path in self.folder.glob("spare-*.statement"):
            if not standing.spares:
                path.unlink()


def by_spare(standing: Standing, step: Step, parts: frozenset[Part]) -> Standing | None:
    """How the CA stands after ``step`` with its next spare; None where that is no way on."""
    if not standing.spares or not parts <= ONLINE:
        return None
    spare, now = standing.spares[0], standing
    if (now.phase, step) == (Phase.IDLE, Step.PREPARE) and parts in (frozenset(), ONLINE):
        return msgspec.structs.replace(now, phase=Phase.PREPARED, other=spare)
    if (now.phase, step, now.other) == (Phase.PREPARED, Step.ACTIVATE, spare):
        return msgspec.structs.replace(now, phase=Phase.ACTIVATED, active=spare, other=now.active)
    if (now.phase, step, now.active) == (Phase.ACTIVATED, Step.RETIRE, spare):
        return msgspec.structs.replace(now, phase=Phase.IDLE, other=None, spares=now.spares[1:])
    return None


def _generations(standing: Standing) -> list[Names]:
    return [standing.active, *([standing.other] if standing.other else [])]


def keys_of(folder: Path, standing: Standing) -> tuple[frozenset[str], frozenset[str]]:
    """The key identifiers (hex) of the keys before a rollover and of those after it; both empty while idle."""
    if standing.other is None:
        return frozenset(), frozenset()
    active, other = (
        frozenset(
            read(certificate(folder / f"{name}.pem")).subject_key_id.hex()
            for name in (names.issuer, names.statement)
        )
        for names in (standing.active, standing.other)
    )
    return (active, other) if standing.phase is Phase.PREPARED else (other, active)
