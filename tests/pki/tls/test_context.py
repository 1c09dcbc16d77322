import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL

from pki.errors import LocalError, RemoteError
from pki.tls.context import ClientCertificate, make_context, unverified_client_context
from pki.tls.openssl import set_groups, was_resumed
from tests import certs
from tests.pki.tls.members import (
    ALICE,
    BOB,
    ISSUER,
    ROOT,
    Outcome,
    attempt,
    client_context,
    secured,
    server_context,
    streams,
)

STRANGER = certs.issue(certs.root("elsewhere"), "spiffe://mesh.test/node/alice")
EXPIRED = certs.issue(ISSUER, "spiffe://mesh.test/node/alice", not_after=datetime(2021, 1, 1, tzinfo=UTC))
CARELESS = certs.issue(ISSUER, "spiffe://mesh.test/node/alice", key_ids=False)
UNDER_A_LEAF = certs.issue(ALICE, "spiffe://mesh.test/node/mallory")
WITHOUT_ISSUER = certs.Issued(ALICE.certificate, ALICE.key)


def under_issuers(count: int) -> certs.Issued:
    issuer = ROOT
    for number in range(count):
        issuer = certs.issue(issuer, f"issuer {number}", ca=True)
    return certs.issue(issuer, "spiffe://mesh.test/node/alice")


async def test_members_of_one_mesh_trust_each_other() -> None:
    """Each sees the other's verified chain up to the root."""
    client, server = await secured()
    assert client.peer_chain() == (*BOB.chain, ROOT.der)
    assert server.peer_chain() == (*ALICE.chain, ROOT.der)


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param(None, id="no certificate"),
        pytest.param(STRANGER, id="a foreign CA"),
        pytest.param(EXPIRED, id="expired"),
        pytest.param(WITHOUT_ISSUER, id="no chain to the root"),
        pytest.param(UNDER_A_LEAF, id="issued by a leaf"),
        pytest.param(under_issuers(3), id="too many issuers between"),
        pytest.param(CARELESS, id="no key identifiers, which X509_STRICT asks for"),
    ],
)
async def test_a_client_that_cannot_show_a_valid_certificate_is_refused(
    credential: certs.Issued | None,
) -> None:
    """The server says no in its handshake; the client, whose own had succeeded, learns it from its first read."""
    outcome = await attempt(client_context(credential))
    assert isinstance(outcome.server, RemoteError)
    assert isinstance(outcome.client, trio.BrokenResourceError)


@pytest.mark.parametrize("credential", [STRANGER, EXPIRED], ids=["a foreign CA", "expired"])
async def test_a_server_that_cannot_show_a_valid_certificate_is_refused(credential: certs.Issued) -> None:
    """The client refuses it before it has shown its own, and tells it why."""
    outcome = await attempt(server=server_context(credential=credential))
    assert isinstance(outcome.client, RemoteError)
    assert isinstance(outcome.server, RemoteError)


async def test_the_deepest_chain_allowed_is_a_cross_signed_root_and_an_issuer() -> None:
    """Which is what a rollover of the root needs."""
    assert await attempt(client_context(under_issuers(2))) == Outcome()


async def test_a_refusal_names_what_is_wrong_with_the_certificate() -> None:
    """An operator must not have to guess between expired, unknown and malformed."""
    outcome = await attempt(client_context(EXPIRED))
    assert str(outcome.server) == "TLS handshake: certificate verify failed: certificate has expired"


async def test_a_client_may_come_without_certificate_only_where_it_is_optional() -> None:
    """To join is to have none yet; the chain it shows is empty, never made up."""
    optional = server_context(ClientCertificate.OPTIONAL)
    client, server = await secured(client_context(None), optional)
    assert (server.peer_chain(), client.peer_chain()) == ((), (*BOB.chain, ROOT.der))


async def test_a_bad_certificate_is_refused_even_where_one_is_optional() -> None:
    """Optional means none or a good one."""
    outcome = await attempt(client_context(STRANGER), server_context(ClientCertificate.OPTIONAL))
    assert isinstance(outcome.server, RemoteError)


async def test_tls_1_2_is_refused_on_either_side() -> None:
    """No downgrade: a peer that speaks no TLS 1.3 gets no connection."""
    old_client, old_server = client_context(), server_context()
    for context in (old_client, old_server):
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    for outcome in (await attempt(client=old_client), await attempt(server=old_server)):
        assert isinstance(outcome.client, RemoteError)
        assert isinstance(outcome.server, RemoteError)


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("X25519:X25519MLKEM768", "X25519MLKEM768"),
        ("P-256:X25519", "x25519"),
        ("P-256", "secp256r1"),
    ],
)
async def test_the_servers_most_wanted_group_wins(offered: str, agreed: str) -> None:
    """Hybrid post-quantum first, then X25519, whatever order the client has."""
    client = client_context()
    set_groups(client, offered)
    near, _ = await secured(client)
    assert (near._tls.get_group_name() or "").lower() == agreed.lower()


async def test_no_other_group_is_spoken() -> None:
    """A client that only has another one is refused."""
    client = client_context()
    set_groups(client, "P-384")
    assert isinstance((await attempt(client)).server, RemoteError)


def test_an_unknown_group_is_our_own_fault() -> None:
    """OpenSSL is older than the code: said at once, not met as a weaker connection."""
    with pytest.raises(LocalError):
        set_groups(client_context(), "X25519:P-000")


async def test_a_session_is_never_resumed() -> None:
    """A resumed session would skip the certificate. A client that tries gets a full handshake."""
    client, server = client_context(), server_context()
    near, far = await secured(client, server)
    await far.send_all(b"x")  # whatever tickets there are go out with it
    await near.receive_some()
    again, _ = pair = streams(client, server)
    session = near._tls.get_session()
    assert session is not None
    again._tls.set_session(session)
    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(stream.do_handshake)
    assert [was_resumed(stream._tls) for stream in pair] == [False, False]
    assert [context.get_session_cache_mode() for context in (client, server)] == [SSL.SESS_CACHE_OFF] * 2
    assert pair[1].peer_chain() == (*ALICE.chain, ROOT.der)


async def test_the_unverified_client_believes_anyone_and_says_so() -> None:
    """It is there to fetch what a pin proves; whoever takes its peer for somebody is wrong."""
    stranger = server_context(ClientCertificate.OPTIONAL, credential=STRANGER)
    client, _ = await secured(unverified_client_context(), stranger)
    with pytest.raises(LocalError):
        client.peer_chain()


def context_of(
    *, anchors: list[bytes], chain: tuple[bytes, ...] = (), key: bool = False, server_side: bool = False
) -> None:
    make_context(anchors=anchors, chain=chain, key=ALICE.key if key else None, server_side=server_side)


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize(
    ("anchors", "chain", "key"),
    [
        pytest.param([], ALICE.chain, True, id="trusts nobody"),
        pytest.param([b"garbage"], ALICE.chain, True, id="an anchor that is none"),
        pytest.param([ROOT.der], (b"garbage",), True, id="a chain that is none"),
        pytest.param([ROOT.der], (), True, id="a key without chain"),
        pytest.param([ROOT.der], ALICE.chain, False, id="a chain without key"),
        pytest.param([ROOT.der], BOB.chain, True, id="the key of another"),
    ],
)
def test_a_context_that_could_not_work_is_refused_at_once(
    anchors: list[bytes], chain: tuple[bytes, ...], key: bool, server_side: bool
) -> None:
    """Our own mistake shows where it is made, not in the first handshake."""
    with pytest.raises(LocalError):
        context_of(anchors=anchors, chain=chain, key=key, server_side=server_side)


def test_a_server_needs_a_certificate() -> None:
    """A client does not."""
    context_of(anchors=[ROOT.der])
    with pytest.raises(LocalError):
        context_of(anchors=[ROOT.der], server_side=True)


UNDER_MDWE = """
import ctypes, sys, trio
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit("refused by the kernel")
from tests.pki.tls.members import ISSUER, attempt, client_context, secured
from tests import certs

async def main():
    near, far = await secured()
    await far.send_all(b"x" * 100_000)
    await far.send_eof()
    while await near.receive_some():
        pass
    assert len(near.peer_chain()) == len(far.peer_chain()) == 3
    assert (await attempt(client_context(certs.issue(certs.root(), "spiffe://mesh.test/node/alice")))).server
    print("done")

trio.run(main)
"""


def test_tls_works_where_memory_is_never_writable_and_executable() -> None:
    """Under MemoryDenyWriteExecute of systemd a Python callback in a context would end in MemoryError here."""
    top = Path(__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", UNDER_MDWE], cwd=top, capture_output=True, text=True, check=False
    )
    if "refused by the kernel" in run.stderr:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert (run.stdout, run.stderr) == ("done\n", "")
