"""A CA that was lost comes back: new online keys under the root that its members know, in an epoch of their own.

Rules:

1. Nothing that the lost CA may have signed, and that nobody here has seen, can be told from what comes now by its
   number alone: so the epoch goes up, and numbers go on far above the highest that was seen.
2. No online key comes back. Members' certificates of the old issuing key count until they have renewed; the rollover
   stands at ``activated``, and `ca rotate retire` ends it.
3. Nobody who was banned comes in: bans are in the register before there is a CA that could be asked.
4. No token comes back: one in a backup may have been spent since.

Blocking.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pki import keys, svid
from pki.authority.bans import Cutoff as Cut
from pki.authority.keystore import (
    BUNDLE_FILE,
    ONLINE_LIFETIME,
    REGISTER_FILE,
    STANDING_FILE,
    Birth,
    Names,
    Pair,
    Standing,
    certificate,
    complete_or_absent,
    save_pair,
)
from pki.authority.register import Register
from pki.authority.rollover import Phase
from pki.bundle import TrustBundle
from pki.certificate import read
from pki.chain import to_pem
from pki.clock import Wall
from pki.statement import Bundle, Cutoff, Lift, Revocation, Statement, Terms, sign
from pki.svid import Signer

NUMBERS_SKIPPED = 1_000_000
"""Between the highest number that was seen and the next: a lost CA may have given more than anybody saw."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is left of a CA: its newest trust bundle, the numbers it gave (at least), and what it stopped."""

    bundle: TrustBundle
    counters: Mapping[str, int]
    stops: tuple[Statement, ...]
    """Revocations and cutoffs, then what lifts them."""
    bundles: tuple[Statement, ...]
    """All trust bundles that were seen, for whoever slept through some of them."""
    register: bytes | None = None
    """Of a backup."""
    root_key: bytes | None = None
    """The root's key as it lay on the CA's disk."""


def rebuild(folder: Path, birth: Birth, root: Signer, found: Found) -> Statement:
    """Make the CA anew in ``folder``, complete or not at all; its trust bundle. Raises LocalError."""
    with complete_or_absent(folder) as draft:
        standing = _make_keys(draft, birth, root, found.bundle)
        statement = _bundle(draft, birth, root, found.bundle)
        keys.save_private(statement.raw, draft / BUNDLE_FILE)
        keys.save_private(msgspec.json.encode(standing), draft / STANDING_FILE)
        if found.root_key is not None:
            keys.save_private(found.root_key, draft / "root.key")
        _fill_register(draft / REGISTER_FILE, found, statement, birth.at)
    return statement


def _make_keys(draft: Path, birth: Birth, root: Signer, before: TrustBundle) -> Standing:
    generation = before.sequence + 1
    new = Names(issuer=f"issuer-{generation}", statement=f"statement-{generation}", tls=f"tls-{generation}")
    keys.save_private(to_pem([root.certificate]), draft / "root.pem")
    key = keys.generate()
    save_pair(draft, new.tls, Pair(svid.leaf(birth.leaf(key), root), key))
    key = keys.generate()
    save_pair(draft, new.statement, Pair(svid.statement_key(birth.leaf(key), root), key))
    key = keys.generate()
    issuer = svid.issuer(birth.authority(ONLINE_LIFETIME), key.public_key(), root)
    save_pair(draft, new.issuer, Pair(issuer, key))
    old = f"issuer-{before.sequence}"
    keys.save_private(to_pem([before.issuers[0]]), draft / f"{old}.pem")
    return Standing(Phase.ACTIVATED, new, msgspec.structs.replace(new, issuer=old))


def _bundle(draft: Path, birth: Birth, root: Signer, before: TrustBundle) -> Statement:
    generation = before.sequence + 1
    issuer, statement = (certificate(draft / f"{part}-{generation}.pem") for part in ("issuer", "statement"))
    body = Bundle(
        trust_domain=before.trust_domain,
        sequence=generation,
        roots=list(dict.fromkeys([root.certificate, *before.roots])),
        issuers=[issuer, *before.issuers],
        statement_keys=[statement],  # Not the old ones: nothing they sign counts in this epoch.
    )
    terms = Terms(before.epoch + 1, birth.at, read(root.certificate).not_after)
    return sign("bundle", body, terms, root.key, (root.certificate,))


def _fill_register(path: Path, found: Found, bundle: Statement, at: Wall) -> None:
    if found.register is None:
        Register.create(path)
    else:
        keys.save_private(found.register, path)
    with Register.open(path) as register:
        register.void_tokens()
        for name, last in found.counters.items():
            register.raise_counter(name, last + (NUMBERS_SKIPPED if name == "number" else 0))
        for stop in found.stops:
            _enter(register, stop, at)
        for one in (*found.bundles, bundle):
            if isinstance(one.body, Bundle):
                register.keep_bundle(one.payload.epoch, one.body.sequence, one.raw)


def _enter(register: Register, stop: Statement, at: Wall) -> None:
    body = stop.body
    if isinstance(body, Revocation):
        register.ban(body.target, stop.id, at)
    elif isinstance(body, Cutoff):
        register.cut_off(Cut(stop.id, body.target, body.before))
    elif isinstance(body, Lift) and stop.kind == "unrevoke":
        register.lift_bans(body.ids, body.before, at)
