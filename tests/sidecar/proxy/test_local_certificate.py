import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pki.certificate import read, to_datetime
from pki.clock import HOUR, SECOND, Wall
from pki.errors import LocalError, RemoteError
from pki.ids import new_id
from pki.svid import BACKDATE
from sidecar.proxy.local_certificate import LocalIssuer, Pin, Term, issue, new_issuer, pin_of
from tests.authority import NOW, SESSION, new_key, tiny_ca

PIN = Pin("researcher", "wiki", SESSION)
ISSUER = new_issuer("agents-1", new_key(), 7, NOW)
UNTIL = Wall(NOW + HOUR)
NAMES = st.sampled_from(["researcher", "wiki", "a", "b-1"])


def issued(until: Wall = UNTIL) -> bytes:
    return issue(PIN, new_key().public_key(), Term(9, NOW, until), ISSUER)


def named(*names: x509.GeneralName) -> bytes:
    """A certificate of our issuer with these names, which it would never make."""
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(read(ISSUER.certificate).parsed.subject)
        .public_key(key.public_key())
        .serial_number(9)
        .not_valid_before(to_datetime(NOW))
        .not_valid_after(to_datetime(UNTIL))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(ISSUER.key, hashes.SHA256()).public_bytes(Encoding.DER)


@given(NAMES, NAMES, st.binary(min_size=16, max_size=16))
def test_a_pin_is_read_as_it_was_written(agent: str, service: str, entropy: bytes) -> None:
    """Agent, service and session, each in its place."""
    pin = Pin(agent, service, new_id(entropy))
    assert Pin.parse(str(pin)) == pin


@given(st.text() | st.lists(st.text("a:-2 ", max_size=30)).map(lambda parts: ":".join([str(PIN), *parts])))
def test_any_other_name_is_no_pin(text: str) -> None:
    """What is not written exactly so is refused, with the one error of remote bytes."""
    try:
        assert str(Pin.parse(text)) == text
    except RemoteError:
        assert text != str(PIN)


@pytest.mark.parametrize(
    "text",
    [
        f"spiffe://example.org/agent/researcher/agents-1/{SESSION}",
        f"urn:lockgate:binding:-a:wiki:{SESSION}",
        f"urn:lockgate:binding:researcher:{'a' * 64}:{SESSION}",
        "urn:lockgate:binding:researcher:wiki:short",
        f"{PIN}\n",
    ],
)
def test_a_name_of_another_kind_is_no_pin(text: str) -> None:
    """An SVID's above all."""
    with pytest.raises(RemoteError, match="its name is not a binding's"):
        Pin.parse(text)


def test_a_certificate_is_good_for_one_binding_and_session() -> None:
    """From its issue to its end, both included, backdated for a clock that lags."""
    leaf = read(issued())
    for now in (NOW - BACKDATE, NOW, UNTIL):
        assert pin_of(leaf, Wall(now)) == PIN


@pytest.mark.parametrize("now", [NOW - BACKDATE - SECOND, UNTIL + SECOND])
def test_outside_of_its_time_it_is_good_for_nothing(now: int) -> None:
    """Time is the later of wall and floor: a clock that was set back revives nothing."""
    with pytest.raises(RemoteError, match="expired"):
        pin_of(read(issued()), Wall(now))


def test_none_is_made_that_has_ended_already() -> None:
    """A session whose own certificate has expired gets none."""
    with pytest.raises(LocalError, match="the session's own certificate has expired"):
        issued(until=NOW)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("localhost"),),
        (x509.UniformResourceIdentifier(str(PIN)), x509.UniformResourceIdentifier(str(PIN))),
        (x509.UniformResourceIdentifier(str(PIN)), x509.DNSName("localhost")),
    ],
    ids=["none", "no URI", "two URIs", "a name beside it"],
)
def test_it_has_exactly_one_name(names: tuple[x509.GeneralName, ...]) -> None:
    """Which of two names a reader believes depends on the reader."""
    with pytest.raises(RemoteError, match="not exactly one name"):
        pin_of(read(named(*names)), NOW)


def test_a_sessions_own_svid_names_no_binding() -> None:
    """Even if it came this far: the issuer that OpenSSL asks for is another."""
    ca = tiny_ca()
    der = ca.issue(ca.agent("researcher", "agents-1", SESSION), new_key())[0]
    with pytest.raises(RemoteError, match="its name is not a binding's"):
        pin_of(read(der), NOW)


def test_two_runs_of_a_daemon_have_issuers_of_different_names() -> None:
    """A client that has an old certificate is told so, not that its signature is wrong."""
    other: LocalIssuer = new_issuer("agents-1", new_key(), 8, NOW)
    assert read(other.certificate).parsed.subject != read(ISSUER.certificate).parsed.subject
