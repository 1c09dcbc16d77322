"""What others read of a CA, judged by programs of others: openssl and the `spiffe` package."""

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from spiffe import SpiffeId as TheirId
from spiffe import TrustDomain, X509Bundle, X509Svid

from pki import keys
from pki.authority.export import CRL_LIFE, Revoked, crl, spiffe_bundle
from pki.authority.issuer import Issuer
from pki.authority.register import Register
from pki.certificate import read, to_datetime
from pki.chain import to_pem
from pki.clock import HOUR, SECOND, Wall
from pki.spiffe import SpiffeId
from pki.statement import Target
from tests.authority import NOW, TinyCa, new_key, tiny_ca
from tests.mesh import has

openssl = pytest.mark.skipif(not has("openssl"), reason="openssl is not installed")


def test_a_spiffe_bundle_names_every_root_and_the_bundles_sequence(ca: TinyCa) -> None:
    """SPIFFE Trust Domain and Bundle, 4.2: use, key parameters and the certificate in x5c, base64 with padding."""
    other = tiny_ca()
    both = replace(ca.bundle, roots=(*ca.bundle.roots, *other.bundle.roots), sequence=7)
    document = json.loads(spiffe_bundle(both))
    assert document["spiffe_sequence"] == 7
    assert [base64.b64decode(key["x5c"][0]) for key in document["keys"]] == list(both.roots)
    for key, root in zip(document["keys"], (ca.root, other.root), strict=True):
        numbers = root.key.public_key().public_numbers()
        assert (key["use"], key["kty"], key["crv"]) == ("x509-svid", "EC", "P-256")
        assert (unpacked(key["x"]), unpacked(key["y"])) == (numbers.x, numbers.y)


def unpacked(text: str) -> int:
    assert "=" not in text
    data = base64.urlsafe_b64decode(text + "=")
    assert len(data) == 32  # RFC 7518 6.2.1.2: leading zeros stay
    return int.from_bytes(data)


def test_the_spiffe_package_reads_our_roots_and_our_members(ca: TinyCa) -> None:
    """The X.509 bundle by its certificates, an SVID with its chain and key."""
    document = json.loads(spiffe_bundle(ca.bundle))
    der = b"".join(base64.b64decode(key["x5c"][0]) for key in document["keys"])
    bundle = X509Bundle.parse_raw(TrustDomain(ca.trust_domain), der)
    assert len(bundle.x509_authorities) == 1
    key = new_key()
    chain = ca.issue(ca.agent(), key)
    svid = X509Svid.parse(to_pem(chain), keys.to_pem(key))
    assert svid.spiffe_id == TheirId(str(ca.agent()))
    assert len(svid.cert_chain) == 2


def test_a_crl_names_what_was_revoked_and_is_good_for_a_day(ca: TinyCa) -> None:
    """By serial, under the issuer's own key, with a number that a reader can order by."""
    since = Wall(NOW + 5 * SECOND + 7)
    parsed = x509.load_pem_x509_crl(crl(ca.issuer, [Revoked("ab01", since)], 3, NOW))
    assert parsed.is_signature_valid(ca.issuer.key.public_key())
    assert [(one.serial_number, one.revocation_date_utc) for one in parsed] == [(0xAB01, to_datetime(since))]
    assert parsed.next_update_utc == to_datetime(Wall(NOW + CRL_LIFE))
    assert parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3


def test_the_register_names_the_revoked_of_one_issuer_until_they_end(
    issuer: Issuer, register: Register
) -> None:
    """By name or by line; what has ended anyway, or hangs on another issuer, is not on the list."""
    ca = issuer.authority
    names = [SpiffeId.for_node(ca.bundle.trust_domain, name) for name in ("a", "b")]
    revoked, other = (issuer.admit(name, new_key().public_key(), NOW, "t") for name in names)
    register.ban(Target(kind="node", value="a"), "r1", Wall(NOW + 1))
    above = read(ca.issuer.certificate).subject_key_id.hex()
    assert register.revoked(above, NOW) == [Revoked(f"{read(revoked[0]).serial:x}", Wall(NOW + 1))]
    assert register.revoked("00", NOW) == []
    register.ban(Target(kind="serial", value=f"{read(other[0]).serial:x}"), "r2", Wall(NOW + 2))
    assert {one.at for one in register.revoked(above, NOW)} == {NOW + 1, NOW + 2}
    assert register.revoked(above, Wall(NOW + 48 * HOUR)) == []


@openssl
def test_openssl_verifies_our_chains_and_heeds_our_crl(ca: TinyCa, tmp_path: Path) -> None:
    """`openssl verify -x509_strict` takes a member, and refuses it once the CRL names it."""
    key = new_key()
    chain = ca.issue(ca.node(), key)
    serial = f"{read(chain[0]).serial:x}"
    files = {
        "root.pem": to_pem([ca.root.certificate]),
        "issuer.pem": to_pem([chain[1]]),
        "leaf.pem": to_pem([chain[0]]),
        "none.crl": crl(ca.issuer, [], 1, NOW),
        "one.crl": crl(ca.issuer, [Revoked(serial, NOW)], 2, NOW),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def verified(*more: str) -> str:
        at = str((NOW + HOUR // 2) // SECOND)
        command = ["openssl", "verify", "-x509_strict", "-attime", at, "-CAfile", "root.pem"]
        command += [*more, "-untrusted", "issuer.pem", "leaf.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert verified() == "leaf.pem: OK\n"
    assert verified("-crl_check", "-CRLfile", "none.crl") == "leaf.pem: OK\n"
    assert "certificate revoked" in verified("-crl_check", "-CRLfile", "one.crl")


@openssl
def test_openssl_prints_the_one_name_of_a_member(ca: TinyCa, tmp_path: Path) -> None:
    """`openssl x509 -text`: a SPIFFE ID in a critical SAN, no subject, no CA."""
    (tmp_path / "leaf.pem").write_bytes(to_pem([ca.issue(ca.agent(), new_key())[0]]))
    command = ["openssl", "x509", "-noout", "-text", "-in", "leaf.pem"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"X509v3 Subject Alternative Name: critical\n                URI:{ca.agent()}" in text
    assert "CA:FALSE" in text
    assert "Digital Signature" in text
