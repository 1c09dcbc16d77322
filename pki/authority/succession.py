"""A step of a rollover on disk: new keys, a new trust bundle, and which keys count from now on.

Order, so that a crash leaves a CA that opens and a step that can be taken again:

1. new keys are written, under names that no other generation had;
2. the bundle is replaced. It lists at least the keys that count before and after the step;
3. ``standing.json`` is replaced: now the step is taken;
4. keys that count no more are deleted.

Blocking, and it needs the root's key: the command line calls it, not the daemon.
"""

from collections.abc import Collection
from dataclasses import dataclass
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
from pki.bundle import key_of
from pki.certificate import read
from pki.errors import LocalError
from pki.statement import Bundle, Statement, Terms, sign
from pki.svid import Signer


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
        standing, authority = read_standing(self.folder), open_online(self.folder)
        phase = after(standing.phase, step)
        names, other = standing.active, standing.other
        if step is Step.PREPARE:
            other = self._make(names, frozenset(parts), authority.bundle.sequence + 1)
        elif step in (Step.ACTIVATE, Step.ROLLBACK) and Phase.ACTIVATED in (phase, standing.phase):
            names, other = other or names, names
            self._check_keys(names)
        kept = Standing(phase, names, None if phase is Phase.IDLE else other)
        # By a root that the phase before trusts: the old one, until everybody knows the new one.
        is_swapped = standing.phase is Phase.ACTIVATED and step is not Step.RETIRE
        signing = standing.other if is_swapped and standing.other else standing.active
        terms = authority.bundle.epoch, authority.bundle.sequence + 1
        return self._put_in_force(kept, signing.root, terms)

    def taint(self, parts: Collection[Part]) -> Statement:
        """New keys at once in place of stolen ones, which count nowhere any more; the epoch goes up with the bundle."""
        if Part.ROOT in parts:
            raise LocalError(
                "taint: whoever has the root's key is the CA; make a new one, and let everybody join it"
            )
        standing, authority = read_standing(self.folder), open_online(self.folder)
        fresh = self._make(standing.active, frozenset(parts), authority.bundle.sequence + 1)
        terms = authority.bundle.epoch + 1, authority.bundle.sequence + 1
        return self._put_in_force(Standing(active=fresh), standing.active.root, terms)

    def _put_in_force(self, standing: Standing, root: str, terms: tuple[int, int]) -> Statement:
        signer = self._root(root)
        statement = self._bundle(standing, signer, terms)
        keys.save_private(statement.raw, self.folder / BUNDLE_FILE)
        keys.save_private(msgspec.json.encode(standing), self.folder / STANDING_FILE)
        self._sweep(standing)
        return statement

    def _bundle(self, standing: Standing, root: Signer, terms: tuple[int, int]) -> Statement:
        epoch, sequence = terms
        generations = [standing.active, *([standing.other] if standing.other else [])]

        def listed(part: str) -> list[bytes]:
            """Each once, the one in use first."""
            files = dict.fromkeys(getattr(names, part) for names in generations)
            return [certificate(self.folder / f"{name}.pem") for name in files]

        body = Bundle(
            trust_domain=self.birth.ca.trust_domain,
            sequence=sequence,
            roots=listed("root"),
            issuers=listed("issuer"),
            statement_keys=listed("statement"),
        )
        life = Terms(epoch=epoch, issued=self.birth.at, expires=read(root.certificate).not_after)
        return sign("bundle", body, life, root.key, (root.certificate,))

    def _make(self, before: Names, parts: frozenset[Part], generation: int) -> Names:
        """New keys of these parts on disk. The CA's TLS leaf is new each time: it lives no longer than the others."""
        if not parts:
            raise LocalError("rollover: of which key? root, issuer or statement")
        parts = frozenset(Part) if Part.ROOT in parts else parts
        root, name = self._root(before.root), before.root
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
        generations = [standing.active, *([standing.other] if standing.other else [])]
        kept = {getattr(names, part) for names in generations for part in Names.__struct_fields__}
        for path in self.folder.glob("*.key"):
            if path.stem not in kept and path.stem.partition("-")[0] in Names.__struct_fields__:
                path.unlink()
                path.with_suffix(".pem").unlink(missing_ok=True)


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
