"""What a certificate of a mesh must look like, by role. Strict, and all mismatches at once.

Neither OpenSSL nor cryptography is a SPIFFE validator: between them they accept two URI names, a NUL in a URI,
RSA-1024, a missing keyUsage, extended key usage or basicConstraints. These rules (X509-SVID sections 2 to 5,
narrowed to what our CA issues) stand on top of both. Signatures and time are judged in :mod:`pki.verify`.

The detail of a mismatch never repeats what the certificate says: it goes to logs, and a stranger wrote it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from pki.certificate import Certificate, is_serial, lineage_of, user_of
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId

LOCAL_NAME = "localhost"
"""The one DNS name: nodes and the CA are also dialled over loopback by programs that know no SPIFFE."""


class Rule(StrEnum):
    """The rules a chain can break, each a word that tests and logs can rely on."""

    COUNT = "count"
    SIZE = "size"
    UNREADABLE = "unreadable"
    VERSION = "version"
    SERIAL = "serial"
    KEY = "key"
    ALGORITHM = "algorithm"
    SUBJECT = "subject"
    BASIC_CONSTRAINTS = "basic-constraints"
    KEY_USAGE = "key-usage"
    EXTENDED_KEY_USAGE = "extended-key-usage"
    CRITICAL_EXTENSION = "critical-extension"
    KEY_IDENTIFIER = "key-identifier"
    LINEAGE = "lineage"
    ON_BEHALF_OF = "on-behalf-of"
    NAMES = "names"
    SPIFFE_ID = "spiffe-id"
    TRUST_DOMAIN = "trust-domain"
    CHAIN = "chain"
    ISSUER = "issuer"
    ROOT = "root"
    CA_PATH = "ca-path"
    SIGNATURE = "signature"
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One rule that was broken, and how, in words of ours."""

    rule: Rule
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


def check_leaf(leaf: Certificate, trust_domain: str) -> tuple[SpiffeId | None, tuple[Mismatch, ...]]:
    """The SPIFFE ID of an X.509-SVID, None if it has not exactly one, and all that is wrong with it."""
    spiffe_id, wrong_names = _names(leaf, trust_domain)
    checks = (_always, _leaf_subject, _leaf_constraints, _leaf_key_usage, _leaf_purposes, _leaf_lineage)
    wrong = (*(wrong for check in checks for wrong in check(leaf)), *_leaf_user(leaf, spiffe_id))
    return spiffe_id, (*wrong, *wrong_names)


def check_issuer(issuer: Certificate) -> tuple[Mismatch, ...]:
    """All that is wrong with an issuing certificate: it signs leaves, and no CA below it."""
    constraints = _constraints(issuer)
    wrong = [*_always(issuer), *_authority(issuer)]
    if constraints is not None and constraints.ca and constraints.path_length != 0:
        wrong.append(Mismatch(Rule.BASIC_CONSTRAINTS, "an issuer has path length 0"))
    if issuer.self_issued:
        wrong.append(Mismatch(Rule.SUBJECT, "an issuer is issued by a root, not by itself"))
    return tuple(wrong)


def check_root(root: Certificate) -> tuple[Mismatch, ...]:
    """All that is wrong with a root certificate. Being trusted comes from the bundle, not from its looks."""
    constraints = _constraints(root)
    wrong = [*_always(root), *_authority(root)]
    if constraints is not None and constraints.path_length == 0:
        wrong.append(Mismatch(Rule.BASIC_CONSTRAINTS, "a root has room for an issuer below it"))
    if not root.self_issued:
        wrong.append(Mismatch(Rule.SUBJECT, "a root is issued by itself"))
    return tuple(wrong)


_ECDSA = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
}

_UNDERSTOOD = {
    x509.BasicConstraints.oid,
    x509.KeyUsage.oid,
    x509.ExtendedKeyUsage.oid,
    x509.SubjectAlternativeName.oid,
    x509.SubjectKeyIdentifier.oid,
    x509.AuthorityKeyIdentifier.oid,
}


def _always(certificate: Certificate) -> Iterator[Mismatch]:
    """What holds in every role."""
    if certificate.parsed.version is not x509.Version.v3:
        yield Mismatch(Rule.VERSION, "not X.509 version 3")
    if not is_serial(certificate.serial):
        yield Mismatch(Rule.SERIAL, "not positive, or longer than 20 octets")
    if certificate.key is None:
        yield Mismatch(Rule.KEY, "not a P-256 key")
    if certificate.parsed.signature_algorithm_oid not in _ECDSA:
        yield Mismatch(Rule.ALGORITHM, "not signed with ECDSA and SHA-256 or better")
    if any(extension.critical and extension.oid not in _UNDERSTOOD for extension in certificate.extensions):
        yield Mismatch(Rule.CRITICAL_EXTENSION, "a critical extension that is not understood here")
    if not certificate.authority_key_id and not certificate.self_issued:
        yield Mismatch(Rule.KEY_IDENTIFIER, "no authority key identifier")


def _authority(certificate: Certificate) -> Iterator[Mismatch]:
    """What an issuer and a root share."""
    extension = certificate.extension(x509.BasicConstraints)
    if extension is None or not extension.critical or not extension.value.ca:
        yield Mismatch(Rule.BASIC_CONSTRAINTS, "not marked as a CA, critically")
    usage = certificate.extension(x509.KeyUsage)
    if usage is None or not usage.critical or not usage.value.key_cert_sign:
        yield Mismatch(Rule.KEY_USAGE, "no critical keyUsage with keyCertSign")
    if not certificate.subject_key_id:
        yield Mismatch(Rule.KEY_IDENTIFIER, "no subject key identifier")


def _leaf_subject(leaf: Certificate) -> Iterator[Mismatch]:
    # A name in the subject would be a second identity, which some readers would believe.
    if len(leaf.parsed.subject.rdns):
        yield Mismatch(Rule.SUBJECT, "not empty")


def _leaf_constraints(leaf: Certificate) -> Iterator[Mismatch]:
    constraints = _constraints(leaf)
    if constraints is None:
        yield Mismatch(Rule.BASIC_CONSTRAINTS, "missing")
    elif constraints.ca:
        yield Mismatch(Rule.BASIC_CONSTRAINTS, "a CA cannot be a member")


def _leaf_key_usage(leaf: Certificate) -> Iterator[Mismatch]:
    usage = leaf.extension(x509.KeyUsage)
    if usage is None:
        yield Mismatch(Rule.KEY_USAGE, "missing")
        return
    if not usage.critical:
        yield Mismatch(Rule.KEY_USAGE, "not critical")
    if not usage.value.digital_signature:
        yield Mismatch(Rule.KEY_USAGE, "no digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        yield Mismatch(Rule.KEY_USAGE, "a leaf may sign no certificates and no CRLs")


def _leaf_purposes(leaf: Certificate) -> Iterator[Mismatch]:
    purposes = leaf.extension(x509.ExtendedKeyUsage)
    if purposes is None:
        yield Mismatch(Rule.EXTENDED_KEY_USAGE, "missing")
    elif set(purposes.value) != {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}:
        yield Mismatch(Rule.EXTENDED_KEY_USAGE, "not clientAuth and serverAuth, both and alone")


def _leaf_lineage(leaf: Certificate) -> Iterator[Mismatch]:
    try:
        lineage_of(leaf)
    except RemoteError as error:
        yield Mismatch(Rule.LINEAGE, str(error))


def _leaf_user(leaf: Certificate, spiffe_id: SpiffeId | None) -> Iterator[Mismatch]:
    try:
        user = user_of(leaf)
    except RemoteError as error:
        yield Mismatch(Rule.ON_BEHALF_OF, str(error))
        return
    if user and (spiffe_id is None or spiffe_id.kind is not IdKind.AGENT):
        yield Mismatch(Rule.ON_BEHALF_OF, "only a session runs on behalf of somebody")


def _constraints(certificate: Certificate) -> x509.BasicConstraints | None:
    extension = certificate.extension(x509.BasicConstraints)
    return extension.value if extension else None


def _names(leaf: Certificate, trust_domain: str) -> tuple[SpiffeId | None, list[Mismatch]]:
    extension = leaf.extension(x509.SubjectAlternativeName)
    if extension is None:
        return None, [Mismatch(Rule.NAMES, "no subject alternative name")]
    uris = [name.value for name in extension.value if isinstance(name, x509.UniformResourceIdentifier)]
    others = [name for name in extension.value if not isinstance(name, x509.UniformResourceIdentifier)]
    wrong = [] if extension.critical else [Mismatch(Rule.NAMES, "not critical, with an empty subject")]
    if len(uris) != 1:
        # Which of two names a reader believes depends on the reader.
        return None, [*wrong, Mismatch(Rule.NAMES, f"{len(uris)} URI names, not exactly one")]
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except RemoteError as error:
        return None, [*wrong, Mismatch(Rule.SPIFFE_ID, str(error))]
    if spiffe_id.trust_domain != trust_domain:
        wrong.append(Mismatch(Rule.TRUST_DOMAIN, "of another trust domain"))
    dialled_locally = spiffe_id.kind in (IdKind.NODE, IdKind.CA)
    if others and not (dialled_locally and others == [x509.DNSName(LOCAL_NAME)]):
        wrong.append(Mismatch(Rule.NAMES, "a name beside the SPIFFE ID that is not allowed there"))
    return spiffe_id, wrong
