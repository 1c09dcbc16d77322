"""What is asked of the CA, and what is taken for its answer. The CA is a fake behind the client's seam."""

import base64
from collections.abc import Sequence
from typing import Any, Self

import pytest

from pki.errors import RemoteError
from pki.http.client import Response
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar import certify
from sidecar.address import Address
from sidecar.certify import CaAccess, certify_session, renew_session
from sidecar.identity import Credential
from tests.authority import NOW, TinyCa, new_key, tiny_ca
from tests.clock import ManualClock


class FakeCa:
    """Answers every request with ``answer``; keeps what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ca: TinyCa = tiny_ca()
        self.key = new_key()
        """That sessions get here."""
        self.asked: list[dict[str, Any]] = []
        self.answer: object = None
        own = new_key()
        credential = Credential(self.ca.node(), self.ca.issue(self.ca.node(), own), own)
        self.access = CaAccess(Address("ca", 7444), self.ca.bundle, credential, ManualClock())

        async def connect(*_: object) -> FakeCa:
            return self

        monkeypatch.setattr(certify, "connect_ca", connect)
        monkeypatch.setattr("pki.keys.generate", lambda: self.key)
        self.gives(self.ca.issue(self.ca.agent(), self.key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def request(self, method: str, path: str, *, json: dict[str, Any]) -> Response:
        assert (method, path) == ("POST", "/v1/sessions")
        self.asked.append(json)
        return Response(200, self.answer)

    def gives(self, chain: Sequence[bytes]) -> None:
        self.answer = {"chain": [base64.b64encode(one).decode() for one in chain]}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    return FakeCa(monkeypatch)


async def test_a_session_is_asked_for_by_agent_and_id(fake: FakeCa) -> None:
    """Its node is not in it: the CA takes that from the connection."""
    identity, key = await certify_session(fake.ca.agent(), "", fake.access)
    assert (identity.id, key) == (fake.ca.agent(), fake.key)
    [body] = fake.asked
    assert body.keys() - {"renews"} == {"csr", "agent", "session"}
    assert not body.get("renews")


async def test_a_renewal_names_the_certificate_before(fake: FakeCa) -> None:
    """And is for the key that it is given, each time it is asked."""
    before = verify(fake.ca.issue(fake.ca.agent(), new_key()), fake.ca.bundle, NOW)
    assert isinstance(before, Identity)
    identities = [await renew_session(before, fake.key, fake.access) for _ in range(2)]
    assert [one.id for one in identities] == [before.id] * 2
    assert [body["renews"] for body in fake.asked] == [before.serial] * 2


def foreign(fake: FakeCa) -> tuple[bytes, ...]:
    other = tiny_ca()
    return other.issue(other.agent(), fake.key)


def another_session(fake: FakeCa) -> tuple[bytes, ...]:
    return fake.ca.issue(fake.ca.agent(name="other"), fake.key)


def another_key(fake: FakeCa) -> tuple[bytes, ...]:
    key: Key = new_key()
    return fake.ca.issue(fake.ca.agent(), key)


@pytest.mark.parametrize("chain", [foreign, another_session, another_key])
async def test_what_was_not_asked_for_is_not_taken(fake: FakeCa, chain: Any) -> None:
    """Another CA's, another session's, or one for a key that is not ours."""
    fake.gives(chain(fake))
    with pytest.raises(RemoteError, match=r"is not for|another key"):
        await certify_session(fake.ca.agent(), "", fake.access)


@pytest.mark.parametrize("answer", [None, [], {}, {"chain": 7}, {"chain": ["?"]}, {"chain": [7]}])
async def test_an_answer_without_a_chain_is_the_cas_fault(fake: FakeCa, answer: object) -> None:
    """Whatever else it holds."""
    fake.answer = answer
    with pytest.raises(RemoteError, match="holds no certificate chain"):
        await certify_session(fake.ca.agent(), "", fake.access)
