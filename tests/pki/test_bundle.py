from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pki.bundle import TrustBundle, key_of, open_pinned, open_successor
from pki.clock import DAY
from pki.errors import RemoteError
from pki.spki import Key, spki_sha256
from pki.statement import Bundle, Lock, Statement, Target, Terms, sign
from tests.authority import NOW, TRUST_DOMAIN, new_key, tiny_ca
from tests.forge import Fields, forge

CA = tiny_ca()
OTHER = tiny_ca()
ROOT = CA.root.certificate
P384 = ec.derive_private_key(7, ec.SECP384R1())
PINS = frozenset({spki_sha256(CA.root.key.public_key())})

BODY = Bundle(
    trust_domain=TRUST_DOMAIN,
    sequence=2,
    roots=[ROOT],
    issuers=[CA.issuer.certificate],
    statement_keys=list(CA.statement_chain),
)


def signed(body: Bundle = BODY, key: Key = CA.root.key, root: bytes = ROOT, epoch: int = 1) -> Statement:
    return sign("bundle", body, Terms(epoch=epoch, issued=NOW, expires=NOW + DAY), key, (root,))


def changed(**changes: object) -> Bundle:
    values = {name: getattr(BODY, name) for name in BODY.__struct_fields__}
    return Bundle(**{**values, **changes})


def test_a_bundle_says_what_its_root_signed() -> None:
    """Certificates, epoch and sequence; and it is named by the statement that carried it."""
    statement = signed(epoch=3)
    assert open_pinned(statement, PINS) == TrustBundle(
        trust_domain=TRUST_DOMAIN,
        epoch=3,
        sequence=2,
        roots=(ROOT,),
        issuers=(CA.issuer.certificate,),
        statement_keys=CA.statement_chain,
        digest=statement.digest.hex(),
    )


def test_a_root_of_the_bundle_in_force_signs_the_next() -> None:
    """A new root comes in under an old one, and may then sign by itself."""
    both = open_successor(signed(changed(roots=[ROOT, OTHER.root.certificate])), CA.bundle)
    alone = changed(roots=[OTHER.root.certificate], sequence=3)
    assert open_successor(signed(alone, OTHER.root.key, OTHER.root.certificate), both).sequence == 3


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (OTHER.bundle_statement, "not signed by a root that is trusted"),
        (signed(root=OTHER.root.certificate), "not signed by a root that is trusted"),
        (signed(root=CA.issuer.certificate, key=CA.issuer.key), "not signed by a root that is trusted"),
        (signed(root=CA.statement_chain[0], key=CA.statement_key), "not signed by a root that is trusted"),
        (signed(key=new_key()), "bad signature"),
        (signed(key=CA.issuer.key), "bad signature"),
        (signed(changed(roots=[OTHER.root.certificate])), "not signed by a root that is trusted"),
        (signed(changed(roots=[])), "not signed by a root that is trusted"),
        (signed(changed(issuers=[])), "empty"),
        (signed(changed(statement_keys=[])), "empty"),
        (signed(changed(trust_domain="Example.org")), "empty, or no trust domain name"),
        (signed(changed(trust_domain="")), "empty, or no trust domain name"),
    ],
    ids=[
        "another-ca",
        "another-root-named",
        "issuer",
        "statement-key",
        "stranger",
        "issuing-key",
        "root-left-out",
        "no-roots",
        "no-issuers",
        "no-statement-keys",
        "upper-case-domain",
        "no-domain",
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "successor"])
def test_nothing_below_a_trusted_root_replaces_the_bundle(
    statement: Statement, problem: str, first: bool
) -> None:
    """Whoever steals any other key cannot say whom the mesh trusts; nor can a root do so unseen."""
    with pytest.raises(RemoteError, match=f"^trust bundle: {problem}"):
        open_pinned(statement, PINS) if first else open_successor(statement, CA.bundle)


def test_the_trust_domain_never_changes() -> None:
    """Else every member would be another at a stroke."""
    elsewhere = signed(changed(trust_domain="example.com"))
    assert open_pinned(elsewhere, PINS).trust_domain == "example.com"
    with pytest.raises(RemoteError, match="another trust domain"):
        open_successor(elsewhere, CA.bundle)


def test_another_statement_is_no_bundle() -> None:
    """Whoever signs it."""
    terms = Terms(epoch=1, issued=NOW, expires=NOW + DAY)
    lock = sign("lock", Lock(target=Target(kind="all")), terms, CA.root.key, (ROOT,))
    with pytest.raises(RemoteError, match="of another kind"):
        open_pinned(lock, PINS)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_the_newer_bundle_has_the_higher_epoch_then_sequence(
    epoch: int, sequence: int, other_epoch: int, other_sequence: int
) -> None:
    """A total order, and none is newer than itself."""
    one = replace(CA.bundle, epoch=epoch, sequence=sequence)
    other = replace(CA.bundle, epoch=other_epoch, sequence=other_sequence)
    assert one.newer_than(other) is ((epoch, sequence) > (other_epoch, other_sequence))


def test_a_certificate_gives_its_p256_key_or_a_remote_error() -> None:
    """The first bundle's signer is a stranger's bytes until its pin matched."""
    assert key_of(ROOT) == CA.root.key.public_key()
    for certificate in (b"", ROOT[:-1], forge(CA.issuer, Fields(key=P384.public_key()))):
        with pytest.raises(RemoteError, match=r"^certificate: "):
            key_of(certificate)
