"""Who holds what: the newest certificate of each, where it came from, and whether it should be newer."""

import pytest

from pki.authority.holdings import Holding
from pki.authority.issuer import Issuer
from pki.clock import DAY, HOUR, Wall
from pki.statement import Target
from pki.verify import Identity, verify
from tests.authority import NOW, TinyCa, new_key


def test_a_line_names_the_token_that_it_began_with(ca: TinyCa, issuer: Issuer) -> None:
    """Through all its renewals; only the newest certificate of each is listed, and none that has expired."""
    first = verify(issuer.admit(ca.node(), new_key().public_key(), NOW, "0123"), ca.bundle, NOW)
    assert isinstance(first, Identity)
    issuer.renew(first, new_key().public_key(), Wall(NOW + HOUR))
    (held,) = issuer.register.holdings(Wall(NOW + HOUR))
    assert (held.id, held.origin, held.lineage) == (str(ca.node()), "token 0123", first.serial)
    assert held.serial != first.serial
    assert issuer.register.holdings(Wall(NOW + 3 * DAY)) == []


def test_who_is_revoked_is_shown_as_such(ca: TinyCa, issuer: Issuer) -> None:
    """And is not asked to renew."""
    issuer.admit(ca.node(), new_key().public_key(), NOW, "t")
    issuer.register.ban(Target(kind="node", value=ca.node().name), "s", NOW)
    (held,) = issuer.register.holdings(Wall(NOW + 20 * HOUR))
    assert (held.revoked, held.ends_soon(Wall(NOW + 20 * HOUR))) == (True, False)


@pytest.mark.parametrize(("age", "soon"), [(0, False), (60, False), (64, False), (66, True), (99, True)])
def test_what_was_not_renewed_in_time_ends_soon(age: int, soon: bool) -> None:
    """Renewal comes at half life, give or take a tenth: from 65 % on something is wrong."""
    held = Holding("spiffe://example.org/node/a", "1", "1", Wall(0), Wall(100), "", revoked=False)
    assert held.ends_soon(Wall(age)) is soon
