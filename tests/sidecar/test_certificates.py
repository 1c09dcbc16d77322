"""The node's own certificate: what is taken at the start, and what a renewal changes."""

from pathlib import Path

import pytest
import trio

from pki.clock import DAY, HOUR
from pki.errors import LocalError
from sidecar.address import Address
from sidecar.audit.record import Kind
from sidecar.certificates import Certificates
from sidecar.identity import Credential
from tests.authority import new_key, tiny_ca
from tests.datapath import LogBook
from tests.sidecar.control.world import Station
from tests.sidecar.working import at_work, carrying, clock_of

CA = Address("127.0.0.1", 7444)


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
async def node(tmp_path: Path, log: LogBook) -> Station:
    return await at_work(tmp_path, log)


def taken(node: Station, credential: Credential) -> Certificates:
    return Certificates(credential, node.member, node.carrier, CA)


async def test_a_certificate_that_no_peer_would_take_is_refused_at_the_start(node: Station) -> None:
    """Another CA's, or one that ended too long ago to be renewed: the node has to join again."""
    key, other = new_key(), tiny_ca()
    foreign = Credential(other.node(), other.issue(other.node(), key), key)
    with pytest.raises(LocalError, match="join again with a new token"):
        taken(node, foreign)
    clock_of(node).pass_time(9 * DAY)
    with pytest.raises(LocalError, match="join again with a new token"):
        taken(node, node.credential)


async def test_a_certificate_that_ended_while_we_were_down_can_be_renewed(node: Station) -> None:
    """For the days of grace the node starts with it, and asks for the next."""
    clock_of(node).pass_time(2 * DAY)
    found = taken(node, node.credential)
    assert found.identity.not_after < clock_of(node).wall()


async def test_a_reload_may_move_the_ca(node: Station) -> None:
    """The next asking goes there, in the node's name of that moment."""
    assert node.certificates.ca_access().address == node.config.ca
    node.reconfigure(node.config.model_copy(update={"ca": Address("127.0.0.1", 9999)}))
    access = node.certificates.ca_access()
    assert (access.address.port, access.credential) == (9999, node.credential)


async def test_the_next_certificate_is_ours_at_once_and_shown_on_live_streams(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """On record, with its end."""
    await carrying(node, nursery, log, "wiki")
    shown: list[object] = []

    def spawn(work: object, *args: object) -> None:
        shown.extend(args)

    key = new_key()
    credential = Credential(node.credential.id, node.mint.ca.issue(node.credential.id, key), key)
    identity = taken(node, credential).identity
    node.certificates.take_up_node(credential, identity, spawn)
    assert (node.credential, node.own_not_after) == (credential, identity.not_after)
    assert shown == [credential]
    [record] = log.of(Kind.RENEWAL)
    assert record.fields["serial"] == identity.serial
    assert identity.not_after > clock_of(node).wall() + HOUR // 2
