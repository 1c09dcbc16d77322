from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.authority.issuer import Issuer
from pki.authority.keystore import Authority, Pair
from pki.authority.register import Register
from pki.spiffe import SpiffeId
from tests.authority import TinyCa, new_serial, tiny_ca


@pytest.fixture(scope="session")
def ca() -> TinyCa:
    return tiny_ca()


@pytest.fixture(scope="session")
def authority(ca: TinyCa) -> Authority:
    return Authority(
        id=SpiffeId.for_ca(ca.trust_domain, "ca-1"),
        bundle=ca.bundle,
        bundle_statement=ca.bundle_statement,
        issuer=ca.issuer,
        statement=Pair(ca.statement_chain[0], ca.statement_key),
        tls=Pair(ca.ca_leaf, ca.ca_key),
    )


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    Register.create(tmp_path / "register.sqlite")
    with Register.open(tmp_path / "register.sqlite") as register:
        yield register


@pytest.fixture
def issuer(authority: Authority, register: Register) -> Issuer:
    """Its random bytes are counted, by two: a serial number drops their last bit."""
    return Issuer(authority, register, entropy=lambda size: (2 * new_serial()).to_bytes(20)[-size:])
