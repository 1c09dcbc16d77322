"""THE judgement of a presented certificate chain. Accept, dial, proof, statements and the CA all ask this.

    verify(chain, bundle, at) -> Identity | Rejected

Rules:

1. Total: any bytes give a value, never an exception. A rejection carries every reason found, not only the first.
2. Counts and sizes are capped before anything is parsed.
3. Order is not negotiable. Leaf first, then what stands above it, and nothing else:

       [leaf, issuer]     nodes, agent sessions, operators; ``issuer`` byte for byte one of the bundle's
       [leaf]             under /ca/ only, signed by a root of the bundle
       [..., root]        either with its root at the end, as a TLS library returns a verified chain

4. An issuer never speaks under ``/ca/``: whoever steals its key can pose as members, but not as the CA.
5. Two judges, both must agree: cryptography's path validation, and the strict profile of :mod:`pki.profile`.
6. Validity is inclusive at both ends (RFC 5280 4.1.2.5) and holds for every certificate up to the root.

Theory of operation. A chain names its signers by key identifier, so the whole path, leaf to root, is known before a
signature is checked. Signatures do not age: path validation is asked at the latest notBefore of the path, a time at
which a path that is ever valid is valid, and its answer is remembered. What depends on ``at`` is compared here, on
each call. Certificates of the bundle are parsed once. A fresh chain costs about 0.25 ms, a remembered one a quarter.

ECDSA signatures are malleable (s and n-s both verify), so one certificate has two encodings and two fingerprints.
Nothing here depends on one: an identity is known by its SPIFFE ID, serial, lineage and key.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pki.bundle import TrustBundle
from pki.certificate import MAX_CERTIFICATE_BYTES, UNREADABLE, Certificate, lineage_of, read, user_of
from pki.chain import MAX_CHAIN_CERTIFICATES
from pki.clock import Wall
from pki.errors import RemoteError
from pki.profile import Mismatch, Rule, check_issuer, check_leaf, check_root
from pki.spiffe import IdKind, SpiffeId
from pki.spki import PublicKey, spki_sha256
from pki.svid import BACKDATE

__all__ = ["Identity", "Mismatch", "Rejected", "Rule", "verify"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a chain proves its holder to be. Times are wall time in microseconds, serials lower-case hex."""

    id: SpiffeId
    chain: tuple[bytes, ...] = field(repr=False)
    """As presented, DER, leaf first, without the root."""
    serial: str
    lineage: str
    """The serial of the first certificate of its line of renewals."""
    spki_sha256: bytes
    issuer: bytes
    """The subject key identifier of the certificate that signed it."""
    not_before: Wall
    not_after: Wall
    """The earliest notAfter from the leaf up to the root."""
    public_key: PublicKey = field(compare=False, repr=False)
    on_behalf_of: str = ""
    """The user whom a session runs for, by the CA's word; empty: nobody's."""

    @property
    def issued(self) -> Wall:
        """When the CA issued it: certificates begin BACKDATE before that."""
        return Wall(self.not_before + BACKDATE)

    @property
    def serials(self) -> tuple[str, ...]:
        """What a revocation by serial may name: the first of its line, and this very certificate."""
        return (self.lineage,) if self.serial == self.lineage else (self.lineage, self.serial)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Every reason found why a chain proves nothing."""

    mismatches: tuple[Mismatch, ...]

    @property
    def rules(self) -> frozenset[Rule]:
        return frozenset(mismatch.rule for mismatch in self.mismatches)

    def __str__(self) -> str:
        return "certificate refused: " + "; ".join(map(str, self.mismatches))


def verify(chain: Sequence[bytes], bundle: TrustBundle, at: Wall) -> Identity | Rejected:
    """Whom ``chain`` proves its holder to be at ``at``, or every reason why it proves nothing.

    ``chain`` is DER, leaf first, as presented or as OpenSSL verified it; it may hold any bytes. ``bundle`` says
    whom to trust and in which trust domain. ``at`` is wall time in microseconds; for a renewal within the grace
    period it is the leaf's notAfter. Raises nothing.
    """
    over = _over_caps(chain)
    if over is not None:
        return Rejected((over,))
    try:
        leaf = read(chain[0])
    except RemoteError as error:
        return Rejected((Mismatch(Rule.UNREADABLE, f"leaf: {error}"),))
    spiffe_id, unfit = check_leaf(leaf, bundle.trust_domain)
    path = _find_path(leaf, tuple(chain[1:]), bundle)
    wrong = [*_found_in("leaf", unfit), *path.mismatches, *_wrong_signer(spiffe_id, path)]
    # Not worth the signature checks when it is refused anyway, which also keeps junk out of what is remembered.
    if not wrong and not _signatures_hold(tuple(each.der for each in path.certificates)):
        wrong.append(Mismatch(Rule.SIGNATURE, "not signed by the certificates that it names"))
    wrong += _out_of_time(path.certificates, at)
    if wrong or spiffe_id is None or leaf.key is None:
        return Rejected(tuple(wrong))
    return Identity(
        id=spiffe_id,
        chain=tuple(each.der for each in path.certificates[:-1]),
        serial=f"{leaf.serial:x}",
        lineage=f"{lineage_of(leaf):x}",
        spki_sha256=spki_sha256(leaf.key),
        issuer=path.certificates[1].subject_key_id,
        not_before=leaf.not_before,
        not_after=min(each.not_after for each in path.certificates),
        public_key=leaf.key,
        on_behalf_of=user_of(leaf),
    )


@dataclass(frozen=True, slots=True)
class _Path:
    """The certificates from the leaf upwards, as far as the bundle knows them, and what is wrong above the leaf."""

    certificates: tuple[Certificate, ...]
    issuer_presented: bool
    mismatches: tuple[Mismatch, ...]


def _over_caps(chain: Sequence[bytes]) -> Mismatch | None:
    if not 1 <= len(chain) <= MAX_CHAIN_CERTIFICATES:
        return Mismatch(Rule.COUNT, f"{len(chain)} certificates, 1 to {MAX_CHAIN_CERTIFICATES} are allowed")
    longest = max(map(len, chain))
    if longest > MAX_CERTIFICATE_BYTES:
        return Mismatch(Rule.SIZE, f"{longest} bytes, at most {MAX_CERTIFICATE_BYTES} are allowed in one")
    return None


def _find_path(leaf: Certificate, presented: tuple[bytes, ...], bundle: TrustBundle) -> _Path:
    """From ``presented``, all that came after the leaf, and the bundle."""
    end = presented[-1] if presented and presented[-1] in bundle.roots else None
    between = presented if end is None else presented[:-1]
    if not between:
        return _up_to_root((leaf,), (), end, bundle)
    if len(between) > 1:
        return _Path((leaf,), True, (Mismatch(Rule.CHAIN, "more than one between leaf and root"),))
    if between[0] not in bundle.issuers:
        return _Path((leaf,), True, (Mismatch(Rule.ISSUER, "not an issuer of the trust bundle"),))
    issuer, unfit = _listed(between[0], "issuer", check_issuer)
    if issuer is None:
        return _Path((leaf,), True, unfit)
    if leaf.authority_key_id != issuer.subject_key_id:
        unfit = (*unfit, Mismatch(Rule.CHAIN, "the leaf names another signer than the issuer beside it"))
    return _up_to_root((leaf, issuer), unfit, end, bundle)


def _up_to_root(
    path: tuple[Certificate, ...], wrong: tuple[Mismatch, ...], end: bytes | None, bundle: TrustBundle
) -> _Path:
    signer = path[-1].authority_key_id
    for der in bundle.roots:
        root, unfit = _listed(der, "root", check_root)
        if root is None or not signer or root.subject_key_id != signer:
            continue
        if end not in (None, der):
            unfit = (*unfit, Mismatch(Rule.CHAIN, "it ends in another root than the one it names as signer"))
        return _Path((*path, root), len(path) > 1, (*wrong, *unfit))
    return _Path(path, len(path) > 1, (*wrong, Mismatch(Rule.ROOT, "no root of the trust bundle signed it")))


@lru_cache(maxsize=64)
def _listed(
    der: bytes, where: str, check: Callable[[Certificate], tuple[Mismatch, ...]]
) -> tuple[Certificate | None, tuple[Mismatch, ...]]:
    """A certificate that a bundle lists. Only those come here, so strangers cannot fill the memory."""
    try:
        certificate = read(der)
    except RemoteError as error:
        return None, (Mismatch(Rule.UNREADABLE, f"{where}: {error}"),)
    return certificate, tuple(_found_in(where, check(certificate)))


def _wrong_signer(spiffe_id: SpiffeId | None, path: _Path) -> Iterator[Mismatch]:
    if spiffe_id is None:
        return
    if spiffe_id.kind is IdKind.CA and path.issuer_presented:
        yield Mismatch(Rule.CA_PATH, "an issuer may not sign below /ca/, only a root may")
    if spiffe_id.kind is not IdKind.CA and not path.issuer_presented:
        yield Mismatch(Rule.CHAIN, "no issuing certificate beside it; a root signs only below /ca/")


@lru_cache(maxsize=512)
def _signatures_hold(path: tuple[bytes, ...]) -> bool:
    """Whether cryptography's path validation (RFC 5280 section 6) leads from leaf to root by exactly this path."""
    certificates = [x509.load_der_x509_certificate(der) for der in path]
    leaf, *between, root = certificates
    latest = max(each.not_valid_before_utc for each in certificates)
    policy = PolicyBuilder().store(Store([root])).time(latest).max_chain_depth(1)
    try:
        return policy.build_client_verifier().verify(leaf, between).chain == certificates
    except (VerificationError, *UNREADABLE):
        return False


def _out_of_time(path: tuple[Certificate, ...], at: Wall) -> Iterator[Mismatch]:
    for each in path:
        where = "leaf" if each is path[0] else "root" if each.self_issued else "issuer"
        if at < each.not_before:
            yield Mismatch(Rule.NOT_YET_VALID, where)
        if at > each.not_after:
            yield Mismatch(Rule.EXPIRED, where)


def _found_in(where: str, mismatches: Iterable[Mismatch]) -> Iterator[Mismatch]:
    return (Mismatch(wrong.rule, f"{where}: {wrong.detail}") for wrong in mismatches)
